/** This machine, as the set-up sees and changes it. */

import { spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { delimiter, dirname, join } from "node:path";

const OUTPUT_LIMIT = 16 * 1024 * 1024;
const ABSENT = new Set(["ENOENT", "ENOTDIR", "EISDIR", "EACCES"]);

/**
 * The probes of the machine that this runs on.
 *
 * @param {string} root the project's folder
 * @param {(line: string) => void} say
 * @returns {import("./valkey.mjs").Probes & { root: string, architecture: string }}
 */
export function thisMachine(root, say) {
  const environment = { ...process.env, PATH: pathOfTheMachine() };
  return {
    root,
    environment,
    platform: process.platform,
    architecture: process.arch,
    folder: join(root, ".sluice"),
    say,
    exists: existsSync,
    run: (command, args, options = {}) => run(command, args, { cwd: root, environment, ...options }),
    readFile: (path) => orIfAbsent(() => readFileSync(path, "utf8"), undefined),
    list: (folder) => orIfAbsent(() => readdirSync(folder).sort(), []),
    writeFile,
    move(from, to) {
      rmSync(to, { recursive: true, force: true });
      renameSync(from, to);
    },
    remove: (path) => rmSync(path, { recursive: true, force: true }),
  };
}

/**
 * Commands run on the machine's own Node: npm must not run on the Node that it is about to remove, which npm
 * itself has put first on the path.
 */
function pathOfTheMachine() {
  const folders = (process.env.PATH ?? "").split(delimiter);
  return folders.filter((folder) => !folder.endsWith(join("node_modules", ".bin"))).join(delimiter);
}

/** What is not quiet shows on standard error: standard output belongs to the command that follows the set-up. */
function run(command, args, { cwd, environment, quiet }) {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    cwd,
    env: quiet ? { ...environment, LC_ALL: "C" } : environment,
    encoding: "utf8",
    maxBuffer: OUTPUT_LIMIT,
    stdio: quiet ? ["ignore", "pipe", "pipe"] : ["ignore", 2, 2],
  });
  if (error !== undefined) return { status: null, stdout: "", stderr: error.message };
  return { status: status ?? 1, stdout: stdout ?? "", stderr: stderr ?? "" };
}

/** In one step: nobody reads a half-written file. */
function writeFile(path, text, executable = false) {
  mkdirSync(dirname(path), { recursive: true });
  const draft = `${path}.${process.pid}.tmp`;
  writeFileSync(draft, text);
  if (executable) chmodSync(draft, 0o755);
  renameSync(draft, path);
}

function orIfAbsent(read, otherwise) {
  try {
    return read();
  } catch (error) {
    if (ABSENT.has(error.code)) return otherwise;
    throw error;
  }
}
