import { spawn, spawnSync } from "node:child_process";
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { withLock } from "#scripts/setup/lock.mjs";
import { ConfigurationError } from "#shared/errors.ts";

/** The last release that starts without an account. compose.yaml names the same. */
export const LOCALSTACK_VERSION = "4.14.0";
/** LocalStack pins few of its dependencies, and later releases of some break it (cbor2 6, pyOpenSSL 26). */
const UPLOADED_PRIOR_TO = "2026-03-10T00:00:00Z";
const PACKAGES = [`localstack-core[base-runtime]==${LOCALSTACK_VERSION}`, "moto-ext"];
/** LocalStack's SQS uses syntax of Python 3.13. */
const PROBE = "import sys, venv, ensurepip; sys.exit(0 if sys.version_info >= (3, 13) else 1)";
const NAMES = ["python3.14", "python3.13", "python3", "python"];
const SETUP = fileURLToPath(new URL("../.sluice", import.meta.url));
const FOLDER = join(SETUP, `localstack-${LOCALSTACK_VERSION}`);
const VENV_PYTHON = join(FOLDER, "bin/python");
/** Written last: without this file the installation is incomplete. */
const STAMP = join(FOLDER, "sluice-installed");

/** Finds Python 3.13 or later with venv and pip: the variable PYTHON, else on the PATH, else in pyenv. */
export function findPython(env: NodeJS.ProcessEnv = process.env): string | undefined {
  const { PYTHON: named = "" } = env;
  const candidates = named === "" ? [...NAMES, ...ofPyenv(env)] : [named];
  return candidates.find((python) => spawnSync(python, ["-c", PROBE], { stdio: "ignore", env }).status === 0);
}

/**
 * The path of a Python with LocalStack. Installs LocalStack from PyPI into .sluice on first use. Rejects with a
 * ConfigurationError if there is no suitable Python or the installation fails.
 */
export async function localStackPython(say: (line: string) => void): Promise<string> {
  if (existsSync(STAMP)) return VENV_PYTHON;
  const python = findPython();
  if (python === undefined) {
    throw new ConfigurationError([
      "LocalStack needs Python 3.13 or later with venv and pip: install it, set PYTHON to its path, or choose " +
        "another queue with --sqs",
    ]);
  }
  const install = async (): Promise<void> => {
    if (existsSync(STAMP)) return;
    say(`installing LocalStack ${LOCALSTACK_VERSION} from PyPI into ${FOLDER} (240 MB; half a minute)`);
    const pip = [VENV_PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    await run([python, "-m", "venv", "--clear", FOLDER]);
    // pip 26 introduced --uploaded-prior-to.
    await run([...pip, "--upgrade", "pip>=26"]);
    await run([...pip, `--uploaded-prior-to=${UPLOADED_PRIOR_TO}`, ...PACKAGES]);
    writeFileSync(STAMP, `${LOCALSTACK_VERSION}\n`);
  };
  await withLock(`${FOLDER}.lock`, install, (owner) =>
    say(`waiting for another installation (process ${owner})`),
  );
  return VENV_PYTHON;
}

function ofPyenv({ PYENV_ROOT: root, HOME: home = "" }: NodeJS.ProcessEnv): string[] {
  const versions = join(root ?? join(home, ".pyenv"), "versions");
  if (!existsSync(versions)) return [];
  return readdirSync(versions).map((version) => join(versions, version, "bin/python"));
}

async function run([command = "", ...args]: readonly string[]): Promise<void> {
  const child = spawn(command, args, { stdio: ["ignore", 2, 2] });
  const status = await new Promise<number | string>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => resolve(code ?? signal ?? "no status"));
  });
  if (status !== 0) {
    throw new ConfigurationError([
      `cannot install LocalStack: ${command} ${args.join(" ")} failed (${status}); choose another queue with --sqs`,
    ]);
  }
}
