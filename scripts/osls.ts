/** Runs osls on this project, to package and to deploy it. */

import { spawn } from "node:child_process";
import { copyFileSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type TemplateBody, templateErrors } from "#scripts/check-template.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const OSLS = join(ROOT, "node_modules/osls/bin/serverless.js");
const BUILD = join(ROOT, "scripts/build.ts");
/** Not in .serverless, which osls clears. */
const PACKAGES = ".sluice/package";
/** Written by the build. */
const SBOM = "sluice.cdx.json";
/** osls' name for the template of the complete stack. */
const TEMPLATE = "cloudformation-template-update-stack.json";

const STAGE_NAME = /^[a-z][a-z0-9]*(?:-[a-z0-9]+)*$/;
const MULTI_LINE_PARAM = /^--param=([^=]+)=[^\n]*\n/;
const UNKNOWN_VALUE = /Value not found at "file" source/;

/** The stages of serverless.yml. */
export const STAGES = ["dev", "prod", "local"] as const;

/** A step failed. The message contains the output of the failed command, unless it was shown already. */
export class StepError extends Error {
  override readonly name = "StepError";
}

/** A packaged stage. */
export interface StagePackage {
  readonly folder: string;
  /** The path of the CloudFormation template. */
  readonly template: string;
  /** The paths of the zip files, one per function. */
  readonly artifacts: readonly string[];
}

/** Builds the functions into dist/. Rejects with a StepError. */
export function buildFunctions(): Promise<void> {
  return run("the build", [BUILD, "--quiet"], "inherit");
}

/**
 * Creates the template and the artifacts of one stage from the built functions. Needs no AWS account. `options` are passed
 * to osls, for example `--param=valkey=existing`. Rejects with a StepError that contains the output of osls, or says what
 * AWS would refuse in the template.
 */
export async function packageStage(
  stage: string,
  options: readonly string[] = [],
  folder: string = join(ROOT, PACKAGES, stage),
): Promise<StagePackage> {
  validate(stage, options);
  await run(`osls package --stage ${stage}`, [
    OSLS,
    "package",
    "--stage",
    stage,
    "--package",
    folder,
    ...options,
  ]);
  const template = join(folder, TEMPLATE);
  const body: TemplateBody = JSON.parse(readFileSync(template, "utf8"));
  const errors = templateErrors(body, stage);
  if (errors.length > 0) throw new StepError(`stage ${stage}: ${errors.join("\n")}`);
  return {
    folder,
    template,
    artifacts: readdirSync(folder)
      .filter((name) => name.endsWith(".zip"))
      .map((name) => join(folder, name)),
  };
}

/** Rejects input that would fail only late in a deployment. */
function validate(stage: string, options: readonly string[]): void {
  if (!STAGE_NAME.test(stage)) {
    throw new StepError(
      `invalid stage name "${stage}": expected lowercase letters and digits, with single hyphens between them (a rule of ElastiCache ids)`,
    );
  }
  const [, name] = options.map((one) => MULTI_LINE_PARAM.exec(one)).find((found) => found !== null) ?? [];
  if (name !== undefined) {
    throw new StepError(
      `--param ${name} has more than one line, and osls reads only the first: set it in serverless.yml`,
    );
  }
}

/** Deploys a packaged stage. Rejects with a StepError. */
export function deployStage(stage: string, folder: string, options: readonly string[]): Promise<void> {
  const args = [OSLS, "deploy", "--stage", stage, "--package", folder, ...options];
  return run(`osls deploy --stage ${stage}`, args, "inherit");
}

/** Copies the SBOM of the built functions to the packages. Returns one line about it. */
export function copySbom(): string {
  const path = join(PACKAGES, SBOM);
  copyFileSync(join(ROOT, "dist", SBOM), join(ROOT, path));
  return `${path}: the packages in the artifacts (CycloneDX)`;
}

/** One line about a package: its folder, resources, and the size of its artifacts. */
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
  output: "inherit" | "collect" = "collect",
): Promise<void> {
  const child = spawn(process.execPath, args, {
    cwd: ROOT,
    stdio: ["ignore", output === "inherit" ? "inherit" : "pipe", output === "inherit" ? "inherit" : "pipe"],
  });
  let collected = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding("utf8").on("data", (text: string) => {
      collected += text;
    });
  }
  const status = await new Promise<number | string>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => resolve(code ?? signal ?? "no status"));
  });
  if (status === 0) return;
  const hint = UNKNOWN_VALUE.test(collected)
    ? "\nA parameter that selects a variant (network, valkey, …) has a value that serverless.yml does not list."
    : "";
  throw new StepError(`${what} failed (${status})${collected === "" ? "" : `:\n${collected.trim()}`}${hint}`);
}
