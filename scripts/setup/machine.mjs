/** Access to this machine for the setup. */

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
 * Creates the probes of this machine.
 *
 * @param {string} root the project's root folder
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
 * The PATH without node_modules/.bin, which npm puts first for its scripts. npm must run on the machine's Node, because
 * `npm ci` removes the one in node_modules.
 */
function pathOfTheMachine() {
  const folders = (process.env.PATH ?? "").split(delimiter);
  return folders.filter((folder) => !folder.endsWith(join("node_modules", ".bin"))).join(delimiter);
}

/** Unless `quiet`, output goes to standard error: standard output belongs to the command that follows the setup. */
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

/** Atomic: readers never see a half-written file. */
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
