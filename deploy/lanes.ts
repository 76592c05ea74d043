/** The lanes of a deployment that have ready queues: the file that `workerLanes` names. */

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
/** Enough for a task with the kit's default timeout of five minutes. */
const DEFAULT_TIMEOUT_SECONDS = 360;
/** Lambda's longest timeout. */
const LONGEST_TIMEOUT_SECONDS = 900;
/** The kit keeps a message in flight for 11 hours. */
const LONGEST_RUN_SECONDS = 39_600;
/** Lambda's limit for all environment variables of a function. */
const LARGEST_ENVIRONMENT_BYTES = 4_096;

const SETTINGS = z.strictObject({
  artifact: z.string().min(1).optional(),
  handler: z.string().min(1).optional(),
  id: z
    .string()
    .regex(/^[a-z][a-z0-9]*(?:-[a-z0-9]+)*$/, "expected lowercase letters, digits and single hyphens")
    .optional(),
  maximumConcurrency: z.int().min(1).max(1_000).optional(),
  batchSize: z.int().min(1).max(10).optional(),
  timeoutSeconds: z.int().min(10).max(LONGEST_RUN_SECONDS).optional(),
  memoryMegabytes: z.int().min(128).max(10_240).optional(),
  environment: z.record(z.string(), z.string()).optional(),
  policyArns: z.array(z.string().startsWith("arn:")).optional(),
});
/** Settings of a worker function: a lane without an artifact has none. */
const OF_FUNCTIONS = [
  "handler",
  "maximumConcurrency",
  "batchSize",
  "memoryMegabytes",
  "environment",
  "policyArns",
] as const;
const FILE = z.record(z.string(), SETTINGS);

/** Variables that the deployment sets. */
const RESERVED =
  /^(?:AWS_|VALKEY_|SLUICE_|NODE_OPTIONS$|POWERTOOLS_LOG_LEVEL$|FLOW_PARTITIONS$|LIBRARY_EDITION$|READY_QUEUES$|COMPLETIONS_QUEUE_URL$)/;

/** A lane with a ready queue. */
export interface ReadyLane {
  readonly name: string;
  /** The part of AWS names that identifies the lane: lowercase letters, digits and hyphens. */
  readonly id: string;
  /** The id without hyphens, which logical ids end with. */
  readonly suffix: string;
  /** The timeout of the function, or how long a task runs in a container at most. */
  readonly timeoutSeconds: number;
  /** Undefined: containers run the lane's tasks. */
  readonly worker: WorkerFunction | undefined;
}

/** The function that runs the tasks of a lane. */
export interface WorkerFunction {
  readonly functionName: string;
  /** The absolute path of a folder or a .zip file. */
  readonly artifact: string;
  readonly handler: string;
  readonly maximumConcurrency: number;
  /** One execution at a time: reserved concurrency 1, since an event source mapping cannot limit itself to less than 2. */
  readonly isSerial: boolean;
  readonly batchSize: number;
  readonly memoryMegabytes: number;
  readonly environment: Readonly<Record<string, string>>;
  readonly policyArns: readonly string[];
}

/**
 * Reads and checks the file. Paths in it are relative to it. `prefix` begins the names of the stack's functions. Throws an
 * Error that lists every problem.
 */
export function readWorkerLanes(path: string, prefix: string): ReadyLane[] {
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
  const errors = [
    ...Object.entries(parsed.data).flatMap(([name, settings]) => uselessSettings(name, settings)),
    ...lanes.flatMap(laneErrors),
    ...collisions(lanes),
  ];
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

type Settings = z.infer<typeof SETTINGS>;

function laneOf(name: string, settings: Settings, file: string, prefix: string): ReadyLane {
  const id =
    settings.id ??
    name
      .toLowerCase()
      .replaceAll(/[^a-z0-9]+/g, "-")
      .replaceAll(/^-|-$/g, "");
  return {
    name,
    id,
    suffix: id.split("-").map(capitalized).join(""),
    timeoutSeconds: settings.timeoutSeconds ?? DEFAULT_TIMEOUT_SECONDS,
    worker:
      settings.artifact === undefined ? undefined : functionOf(id, settings.artifact, settings, file, prefix),
  };
}

function functionOf(
  id: string,
  artifact: string,
  settings: Settings,
  file: string,
  prefix: string,
): WorkerFunction {
  const { maximumConcurrency = 10, memoryMegabytes = 512, environment = {}, policyArns = [] } = settings;
  const isSerial = maximumConcurrency === 1;
  return {
    functionName: `${prefix}-worker-${id}`,
    artifact: resolve(dirname(file), artifact),
    handler: settings.handler ?? "index.handler",
    maximumConcurrency,
    isSerial,
    batchSize: settings.batchSize ?? (isSerial ? 1 : 10),
    memoryMegabytes,
    environment,
    policyArns,
  };
}

function capitalized(word: string): string {
  return `${word.charAt(0).toUpperCase()}${word.slice(1)}`;
}

function laneErrors({ name, id, timeoutSeconds, worker }: ReadyLane): string[] {
  const errors: string[] = [];
  const lane = parseLaneId(name);
  if (!lane.ok) errors.push(lane.error.message);
  // CloudFormation and osls would replace it.
  if (name.includes("${"))
    errors.push(`the lane "${name}" contains "\${", which templates replace: rename it`);
  if (id === "") errors.push(`no id follows from the lane "${name}": set its id`);
  if (worker === undefined) return errors;
  const { functionName, artifact, environment } = worker;
  if (timeoutSeconds > LONGEST_TIMEOUT_SECONDS) {
    errors.push(
      `the lane "${name}" has timeoutSeconds ${timeoutSeconds}, and Lambda ends a function after ` +
        `${LONGEST_TIMEOUT_SECONDS}: run longer tasks in containers`,
    );
  }
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

/** Settings that only a function has, in a lane without one. */
function uselessSettings(name: string, settings: Settings): string[] {
  if (settings.artifact !== undefined) return [];
  return OF_FUNCTIONS.filter((setting) => settings[setting] !== undefined).map(
    (setting) => `the lane "${name}" has ${setting} but no artifact: only functions have it`,
  );
}

/** Lanes that would have the same AWS names. Logical ids have no hyphens: "a-1" and "a1" collide too. */
function collisions(lanes: readonly ReadyLane[]): string[] {
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
export function packageLane(
  id: string,
  { artifact, handler }: WorkerFunction,
  stage: string,
): Record<string, unknown> {
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
export function readyQueues(lanes: readonly ReadyLane[], prefix: string): unknown {
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
