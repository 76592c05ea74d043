/** Runs osls on this project: its templates and artifacts, and their deployment. */

import { spawn } from "node:child_process";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const OSLS = join(ROOT, "node_modules/osls/bin/serverless.js");
const BUILD = join(ROOT, "scripts/build.ts");
/** Not in .serverless, which osls itself empties and copies from. */
const PACKAGES = ".sluice/package";
/** What osls calls the template of the whole stack. */
const TEMPLATE = "cloudformation-template-update-stack.json";

const SMALL_NAME = /^[a-z][a-z0-9-]*$/;
const MANY_LINES = /^--param=([^=]+)=[^\n]*\n/;
const UNKNOWN_CHOICE = /Value not found at "file" source/;

/** The stages of serverless.yml. */
export const STAGES = ["dev", "prod", "local"] as const;

/** Something did not go well; what, has been said. */
export class StepError extends Error {
  override readonly name = "StepError";
}

/** One stage, packaged. */
export interface StagePackage {
  readonly folder: string;
  /** CloudFormation's template. */
  readonly template: string;
  /** A zip for each function. */
  readonly artifacts: readonly string[];
}

/** Builds the functions into dist/. Rejects with a StepError. */
export function buildFunctions(): Promise<void> {
  return run("the build", [BUILD, "--quiet"], "inherit");
}

/**
 * Makes the template and the artifacts of one stage from what is built; needs no AWS account. `options` go to osls,
 * e.g. `--param=valkey=existing`. Rejects with a StepError that has what osls said.
 */
export async function packageStage(
  stage: string,
  options: readonly string[] = [],
  folder: string = join(ROOT, PACKAGES, stage),
): Promise<StagePackage> {
  refuseMistakes(stage, options);
  await run(`osls package --stage ${stage}`, [
    OSLS,
    "package",
    "--stage",
    stage,
    "--package",
    folder,
    ...options,
  ]);
  return {
    folder,
    template: join(folder, TEMPLATE),
    artifacts: readdirSync(folder)
      .filter((name) => name.endsWith(".zip"))
      .map((name) => join(folder, name)),
  };
}

/** What osls and CloudFormation would take, and fail with much later. */
function refuseMistakes(stage: string, options: readonly string[]): void {
  if (!SMALL_NAME.test(stage)) {
    throw new StepError(
      `the stage "${stage}" must be of small letters, digits and hyphens, as the ids of ElastiCache are`,
    );
  }
  const [, name] = options.map((one) => MANY_LINES.exec(one)).find((found) => found !== null) ?? [];
  if (name !== undefined) {
    throw new StepError(
      `--param ${name} has more than one line, of which osls takes the first: write it into serverless.yml`,
    );
  }
}

/** Deploys what was packaged. Rejects with a StepError. */
export function deployStage(stage: string, folder: string, options: readonly string[]): Promise<void> {
  const args = [OSLS, "deploy", "--stage", stage, "--package", folder, ...options];
  return run(`osls deploy --stage ${stage}`, args, "inherit");
}

/** A line about a package: what is in it, and how large. */
export function describePackage({ folder, template, artifacts }: StagePackage): string {
  const { Resources } = JSON.parse(readFileSync(template, "utf8")) as { Resources: object };
  const kilobytes = artifacts.reduce((sum, path) => sum + statSync(path).size, 0) / 1_024;
  return (
    `${folder.replace(ROOT, "")}: ${Object.keys(Resources).length} resources, ` +
    `${artifacts.length} artifacts of ${Math.round(kilobytes)} KB`
  );
}

async function run(
  what: string,
  args: readonly string[],
  output: "inherit" | "kept" = "kept",
): Promise<void> {
  const child = spawn(process.execPath, args, {
    cwd: ROOT,
    stdio: ["ignore", output === "inherit" ? "inherit" : "pipe", output === "inherit" ? "inherit" : "pipe"],
  });
  let said = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding("utf8").on("data", (text: string) => {
      said += text;
    });
  }
  const status = await new Promise<number | string>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => resolve(code ?? signal ?? "no status"));
  });
  if (status === 0) return;
  const hint = UNKNOWN_CHOICE.test(said)
    ? "\nA parameter that makes a choice (network, valkey, …) has a value that serverless.yml does not list."
    : "";
  throw new StepError(`${what} failed (${status})${said === "" ? "" : `:\n${said.trim()}`}${hint}`);
}
