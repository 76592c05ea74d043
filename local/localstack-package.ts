import { spawn, spawnSync } from "node:child_process";
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { withLock } from "#scripts/setup/lock.mjs";
import { ConfigurationError } from "#shared/errors.ts";

/** The last release that starts without an account; the same as in compose.yaml. */
export const LOCALSTACK_VERSION = "4.14.0";
/** It names few versions of what it needs. Those that came after this day do not fit it any more (cbor2 6, pyOpenSSL 26). */
const UPLOADED_PRIOR_TO = "2026-03-10T00:00:00Z";
const PACKAGES = [`localstack-core[base-runtime]==${LOCALSTACK_VERSION}`, "moto-ext"];
/** Its SQS is written in the language of Python 3.13. */
const PROBE = "import sys, venv, ensurepip; sys.exit(0 if sys.version_info >= (3, 13) else 1)";
const NAMES = ["python3.14", "python3.13", "python3", "python"];
const SETUP = fileURLToPath(new URL("../.sluice", import.meta.url));
const FOLDER = join(SETUP, `localstack-${LOCALSTACK_VERSION}`);
const VENV_PYTHON = join(FOLDER, "bin/python");
/** Written last: without it the folder is half of an installation. */
const STAMP = join(FOLDER, "sluice-installed");

/** A Python of 3.13 or later with venv and pip: the variable PYTHON, one on the path, or one of pyenv's. */
export function findPython(env: NodeJS.ProcessEnv = process.env): string | undefined {
  const { PYTHON: named = "" } = env;
  const candidates = named === "" ? [...NAMES, ...ofPyenv(env)] : [named];
  return candidates.find((python) => spawnSync(python, ["-c", PROBE], { stdio: "ignore", env }).status === 0);
}

/**
 * The Python that has LocalStack, which is installed from PyPI below .sluice when it is not there. Rejects with a
 * ConfigurationError when there is no Python for it, or when it cannot be installed.
 */
export async function localStackPython(say: (line: string) => void): Promise<string> {
  if (existsSync(STAMP)) return VENV_PYTHON;
  const python = findPython();
  if (python === undefined) {
    throw new ConfigurationError([
      "LocalStack needs a Python of 3.13 or later with venv and pip: install one, name it in PYTHON, or choose " +
        "another queue with --sqs",
    ]);
  }
  const install = async (): Promise<void> => {
    if (existsSync(STAMP)) return;
    say(`installing LocalStack ${LOCALSTACK_VERSION} from PyPI into ${FOLDER} (240 MB; half a minute)`);
    const pip = [VENV_PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    await run([python, "-m", "venv", "--clear", FOLDER]);
    // The option for the day came with pip 26.
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
      `LocalStack cannot be installed: ${command} ${args.join(" ")} failed (${status}); choose another queue with --sqs`,
    ]);
  }
}
