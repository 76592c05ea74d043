/** The lanes of a deployment whose tasks run in Lambda functions: the file that `workerLanes` names. */

import { cpSync, mkdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { dirname, extname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { parseLaneId } from "#shared/contract/ids.ts";
import { messageOf } from "#shared/errors.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
/** Where the artifacts are copied to: osls packages only files below its own folder. */
const COPIES = "dist/lanes";
/** Lambda's limit for the name of a function. */
const LONGEST_FUNCTION_NAME = 64;
/** Lambda's limit for all environment variables of a function. */
const LARGEST_ENVIRONMENT_BYTES = 4_096;

const SETTINGS = z.strictObject({
  artifact: z.string().min(1),
  handler: z.string().min(1).default("index.handler"),
  id: z
    .string()
    .regex(/^[a-z][a-z0-9]*(?:-[a-z0-9]+)*$/, "expected lowercase letters, digits and single hyphens")
    .optional(),
  maximumConcurrency: z.int().min(1).max(1_000).default(10),
  batchSize: z.int().min(1).max(10).optional(),
  timeoutSeconds: z.int().min(10).max(900).default(360),
  memoryMegabytes: z.int().min(128).max(10_240).default(512),
  environment: z.record(z.string(), z.string()).default({}),
  policyArns: z.array(z.string().startsWith("arn:")).default([]),
});
const FILE = z.record(z.string(), SETTINGS);

/** Variables that the deployment sets. */
const RESERVED =
  /^(?:AWS_|VALKEY_|SLUICE_|NODE_OPTIONS$|POWERTOOLS_LOG_LEVEL$|FLOW_PARTITIONS$|LIBRARY_EDITION$|READY_QUEUES$|COMPLETIONS_QUEUE_URL$)/;

/** A lane with a worker function. */
export interface WorkerLane extends Omit<z.infer<typeof SETTINGS>, "id" | "batchSize"> {
  readonly name: string;
  /** The part of AWS names that identifies the lane: lowercase letters, digits and hyphens. */
  readonly id: string;
  /** The id without hyphens, which logical ids end with. */
  readonly suffix: string;
  readonly functionName: string;
  /** One execution at a time: reserved concurrency 1, since an event source mapping cannot limit itself to less than 2. */
  readonly isSerial: boolean;
  readonly batchSize: number;
}

/**
 * Reads and checks the file. Paths in it are relative to it. `prefix` begins the names of the stack's functions. Throws an
 * Error that lists every problem.
 */
export function readWorkerLanes(path: string, prefix: string): WorkerLane[] {
  if (path === "") return [];
  const file = resolve(ROOT, path);
  const parsed = FILE.safeParse(readJson(file));
  if (!parsed.success) {
    throw new Error(
      parsed.error.issues
        .map((issue) => `workerLanes: ${path}: ${issue.path.join(".") || "the file"}: ${issue.message}`)
        .join("\n"),
    );
  }
  const lanes = Object.entries(parsed.data).map(([name, settings]) => laneOf(name, settings, file, prefix));
  const errors = [...lanes.flatMap(laneErrors), ...collisions(lanes)];
  if (errors.length > 0) throw new Error(errors.map((error) => `workerLanes: ${error}`).join("\n"));
  return lanes;
}

function readJson(file: string): unknown {
  try {
    return JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    throw new Error(`workerLanes: cannot read ${file}: ${messageOf(error)}`);
  }
}

function laneOf(name: string, settings: z.infer<typeof SETTINGS>, file: string, prefix: string): WorkerLane {
  const id =
    settings.id ??
    name
      .toLowerCase()
      .replaceAll(/[^a-z0-9]+/g, "-")
      .replaceAll(/^-|-$/g, "");
  const isSerial = settings.maximumConcurrency === 1;
  return {
    ...settings,
    name,
    id,
    suffix: id.split("-").map(capitalized).join(""),
    functionName: `${prefix}-worker-${id}`,
    isSerial,
    batchSize: settings.batchSize ?? (isSerial ? 1 : 10),
    artifact: resolve(dirname(file), settings.artifact),
  };
}

function capitalized(word: string): string {
  return `${word.charAt(0).toUpperCase()}${word.slice(1)}`;
}

function laneErrors({ name, id, artifact, functionName, environment }: WorkerLane): string[] {
  const errors: string[] = [];
  const lane = parseLaneId(name);
  if (!lane.ok) errors.push(lane.error.message);
  // CloudFormation and osls would replace it.
  if (name.includes("${"))
    errors.push(`the lane "${name}" contains "\${", which templates replace: rename it`);
  if (id === "") errors.push(`no id follows from the lane "${name}": set its id`);
  if (functionName.length > LONGEST_FUNCTION_NAME) {
    errors.push(
      `the lane "${name}" makes the function's name "${functionName}" longer than ${LONGEST_FUNCTION_NAME} characters: ` +
        "set a shorter id",
    );
  }
  const kind = statSync(artifact, { throwIfNoEntry: false });
  if (kind === undefined || !(kind.isDirectory() || extname(artifact) === ".zip")) {
    errors.push(`the artifact of the lane "${name}" is neither a folder nor a .zip file: ${artifact}`);
  }
  for (const variable of Object.keys(environment).filter((one) => RESERVED.test(one))) {
    errors.push(
      `the environment of the lane "${name}" has ${variable}, which the deployment sets: remove it`,
    );
  }
  return errors;
}

/** Lanes that would have the same AWS names. Logical ids have no hyphens: "a-1" and "a1" collide too. */
function collisions(lanes: readonly WorkerLane[]): string[] {
  return [...Map.groupBy(lanes, ({ suffix }) => suffix.toLowerCase()).values()]
    .filter((same) => same.length > 1)
    .map(
      (same) =>
        `the lanes ${same.map(({ name }) => JSON.stringify(name)).join(" and ")} have the same id "${same[0]?.id}": ` +
        "set another id for one of them",
    );
}

/**
 * Copies the artifact of a lane to where osls finds it. Returns the function's properties `handler` and `package`.
 */
export function packageLane({ id, artifact, handler }: WorkerLane, stage: string): Record<string, unknown> {
  const copy = join(COPIES, stage, id);
  mkdirSync(join(ROOT, COPIES, stage), { recursive: true });
  if (extname(artifact) === ".zip") {
    // A name of its own: osls uploads all artifacts to one folder.
    cpSync(artifact, join(ROOT, `${copy}.zip`));
    return { handler, package: { artifact: `${copy}.zip` } };
  }
  rmSync(join(ROOT, copy), { recursive: true, force: true });
  cpSync(artifact, join(ROOT, copy), { recursive: true });
  return { handler: `${copy}/${handler}`, package: { patterns: ["!**", `${copy}/**`] } };
}

/**
 * `READY_QUEUES` for CloudFormation. Throws if it may not fit into a function's environment: Lambda would refuse it only
 * during the deployment.
 */
export function readyQueues(lanes: readonly WorkerLane[], prefix: string): unknown {
  if (lanes.length === 0) return "";
  const entries = lanes.map(({ name, suffix }) => [name, `\${LaneQueue${suffix}}`]);
  const urlBytes = "https://sqs.ap-southeast-1.amazonaws.com/123456789012/".length;
  const bytes = lanes.reduce(
    (sum, { name, id }) => sum + name.length + prefix.length + id.length + urlBytes + 14,
    0,
  );
  // The other variables, with the longest names of Valkey nodes, take less than 1 KB.
  if (bytes > LARGEST_ENVIRONMENT_BYTES - 1_024) {
    throw new Error(
      `workerLanes: the URLs of ${lanes.length} queues take about ${bytes} bytes of a function's environment, of which ` +
        "Lambda allows 4 KB: use fewer lanes or shorter ids",
    );
  }
  return { "Fn::Sub": JSON.stringify(Object.fromEntries(entries)) };
}
