/**
 * `npm run lint:templates`: packages every variant of a deployment and runs cfn-lint on the templates. Installs a pinned
 * version of cfn-lint into .sluice, which needs Python 3.10 or later; without it, nothing is linted.
 *
 * Exit status: 0 (also without Python), 1 when a template has an error or a step failed. Takes no arguments.
 */

import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { buildFunctions, packageStage, StepError } from "#scripts/osls.ts";
import { VARIANTS } from "#scripts/variants.ts";
import { messageOf } from "#shared/errors.ts";

const VERSION = "1.58.0";
const VENV = fileURLToPath(new URL(`../.sluice/cfn-lint-${VERSION}`, import.meta.url));
const CFN_LINT = join(VENV, "bin/cfn-lint");
const PYTHON_PROBE = "import sys, venv, ensurepip; sys.exit(0 if sys.version_info >= (3, 10) else 1)";
/** W3005: osls adds a DependsOn that a reference makes redundant. */
const IGNORED = "W3005";

function succeeds(command: string, ...args: string[]): boolean {
  return spawnSync(command, args, { stdio: "ignore" }).status === 0;
}

/** Installs cfn-lint on first use. Undefined if there is no suitable Python. */
function findLinter(): string | undefined {
  if (existsSync(CFN_LINT) && succeeds(CFN_LINT, "--version")) return CFN_LINT;
  const python = ["python3", "python"].find((name) => succeeds(name, "-c", PYTHON_PROBE));
  if (python === undefined) return undefined;
  console.log(`installing cfn-lint ${VERSION} into ${VENV}`);
  for (const [command, ...args] of [
    [python, "-m", "venv", "--clear", VENV],
    [join(VENV, "bin/python"), "-m", "pip", "install", "--quiet", `cfn-lint==${VERSION}`],
  ]) {
    const { status } = spawnSync(command ?? "", args, { stdio: ["ignore", 2, 2] });
    if (status !== 0) throw new StepError(`${command} ${args.join(" ")} failed (${status})`);
  }
  return CFN_LINT;
}

async function lint(linter: string): Promise<boolean> {
  const folder = mkdtempSync(join(tmpdir(), "sluice-templates-"));
  try {
    await buildFunctions();
    const templates: string[] = [];
    for (const { name, stage, options } of VARIANTS) {
      templates.push((await packageStage(stage, options, join(folder, name))).template);
    }
    const { status, stdout, stderr } = spawnSync(
      linter,
      ["--regions", "us-east-1", "--ignore-checks", IGNORED, "--", ...templates],
      { encoding: "utf8" },
    );
    const names = VARIANTS.map(({ name }) => name).join(", ");
    console.log(status === 0 ? `clean: ${names}` : `${stdout}${stderr}`);
    return status === 0;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

try {
  const linter = findLinter();
  if (linter === undefined) {
    console.log("templates not linted: cfn-lint needs Python 3.10 or later with venv and pip");
  } else process.exitCode = (await lint(linter)) ? 0 : 1;
} catch (error) {
  process.stderr.write(`lint:templates: ${messageOf(error)}\n`);
  process.exitCode = 1;
}
