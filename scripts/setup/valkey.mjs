/**
 * Finds a valkey-server, or installs one, with as few changes to the machine as possible.
 *
 * All access to the machine goes through probes, so that tests can simulate any machine.
 *
 * @typedef {{ status: number | null, stdout: string, stderr: string }} Ran
 * @typedef {object} Probes
 * @property {Readonly<Record<string, string | undefined>>} environment
 * @property {string} platform like process.platform
 * @property {string} folder the absolute path of the setup's folder
 * @property {(command: string, args: readonly string[], options?: { quiet?: boolean }) => Ran} run never throws; the
 *   status of a command that cannot be started is null
 * @property {(path: string) => string | undefined} readFile undefined when it cannot be read
 * @property {(path: string) => boolean} exists
 * @property {(folder: string) => string[]} list file names, sorted; empty when there is no such folder
 * @property {(path: string, text: string, executable?: boolean) => void} writeFile atomic; creates missing folders
 * @property {(from: string, to: string) => void} move replaces the target
 * @property {(path: string) => void} remove removes a file or a folder
 * @property {(line: string) => void} say
 */

import { fromApt } from "./apt.mjs";
import { fromContainer } from "./container.mjs";

/** The oldest release that the library supports. */
const MIN_VERSION = Object.freeze([7, 2]);
const PACKAGE = Object.freeze({ name: "valkey-server", folder: "valkey", program: "usr/bin/valkey-server" });

/** No valkey-server is available. The message says how to install one. */
export class NoValkeyError extends Error {
  name = "NoValkeyError";
}

/**
 * Returns the path of a valkey-server 7.2 or later, and its origin. Throws a NoValkeyError if none is available, or if
 * VALKEY_SERVER names anything else: an explicit setting is never silently replaced.
 *
 * @param {Probes} probes
 * @returns {{ path: string, source: string }}
 */
export function findValkey(probes) {
  const named = probes.environment.VALKEY_SERVER ?? "";
  if (named !== "") {
    const problem = problemOf(probes, named);
    if (problem === undefined) return { path: named, source: "the variable VALKEY_SERVER" };
    throw new NoValkeyError(`VALKEY_SERVER names ${named}, which ${problem}`);
  }
  const tried = [];
  for (const { source, find } of SEARCH) {
    const path = find(probes, (why) => tried.push(`${source}: ${why}`));
    if (path === undefined) continue;
    const problem = problemOf(probes, path);
    if (problem === undefined) return { path, source };
    tried.push(`${source}: ${path} ${problem}`);
  }
  throw new NoValkeyError(adviceOf(tried));
}

/**
 * Finds or installs a server like `findValkey`, and records its path for the programs that start it. Returns the path, and
 * whether this call recorded it.
 *
 * @param {Probes} probes
 * @returns {{ path: string, isNew: boolean }}
 */
export function provideValkey(probes) {
  const { path, source } = findValkey(probes);
  // A path from the variable applies to this run only and is not recorded.
  const isFromVariable = (probes.environment.VALKEY_SERVER ?? "") !== "";
  const isNew = !isFromVariable && probes.readFile(recordOf(probes.folder))?.trim() !== path;
  if (isNew) {
    probes.writeFile(recordOf(probes.folder), `${path}\n`);
    probes.say(`using ${path}, from ${source}`);
  }
  return { path, isNew };
}

/** The file that records the path of the server for other programs: one line with an absolute path. */
function recordOf(folder) {
  return `${folder}/valkey-server`;
}

/** Why an executable cannot be used. Undefined if it can. */
function problemOf(probes, path) {
  const { status, stdout, stderr } = probes.run(path, ["--version"], { quiet: true });
  if (status === null) return "cannot be started";
  if (status !== 0) return `fails: ${lastLine(stderr || stdout)}`;
  const version = /\bv=(\d+)\.(\d+)\.(\d+)/.exec(stdout);
  if (!/^(Valkey|Server)\b/i.test(stdout) || version === null) return "is not a valkey-server";
  const [major, minor] = [Number(version[1]), Number(version[2])];
  const [minMajor, minMinor] = MIN_VERSION;
  if (major > minMajor || (major === minMajor && minor >= minMinor)) return undefined;
  return `is version ${major}.${minor}, and ${MIN_VERSION.join(".")} or later is needed`;
}

const SEARCH = [
  { source: "an earlier setup", find: recorded },
  { source: "the PATH", find: onPath },
  { source: "Homebrew", find: fromHomebrew },
  { source: "the distribution's package", find: (probes, why) => fromApt(probes, PACKAGE, why) },
  {
    source: "the distribution's backports",
    find: (probes, why) => fromApt(probes, PACKAGE, why, "backports"),
  },
  { source: "a container engine", find: fromContainer },
];

function recorded(probes) {
  const path = probes.readFile(recordOf(probes.folder))?.trim() ?? "";
  if (path !== "" && probes.exists(path)) return path;
  // The project may have been moved, together with the unpacked server.
  const unpacked = `${probes.folder}/valkey/valkey-server`;
  return probes.exists(unpacked) ? unpacked : undefined;
}

function onPath(probes) {
  const folders = (probes.environment.PATH ?? "").split(":").filter((folder) => folder.startsWith("/"));
  return folders.map((folder) => `${folder}/valkey-server`).find((path) => probes.exists(path));
}

function fromHomebrew(probes, why) {
  const { status, stdout } = probes.run("brew", ["--prefix", "valkey"], { quiet: true });
  if (status === null) return undefined;
  const path = `${stdout.trim()}/bin/valkey-server`;
  // Homebrew also prints the prefix of a formula that is not installed.
  if (status === 0 && probes.exists(path)) return path;
  probes.say("installing Valkey with Homebrew (brew install valkey)");
  const installed = probes.run("brew", ["install", "valkey"]);
  if (installed.status !== 0) {
    why(`brew install valkey failed: ${lastLine(installed.stderr)}`);
    return undefined;
  }
  const prefix = probes.run("brew", ["--prefix", "valkey"], { quiet: true }).stdout.trim();
  return `${prefix}/bin/valkey-server`;
}

function adviceOf(tried) {
  return [
    `valkey-server ${MIN_VERSION.join(".")} or later was not found and could not be installed.`,
    "Install Valkey in one of these ways, and run the command again:",
    "  - macOS: brew install valkey",
    "  - Debian 13 or later, Ubuntu 24.04 or later: sudo apt-get install valkey-server",
    "  - Debian 12: the package valkey-server of the suite bookworm-backports",
    "  - Fedora, Alpine, Arch: the package valkey",
    "  - or start a container engine (Docker or Podman)",
    "  - or set VALKEY_SERVER to the path of a valkey-server",
    ...(tried.length === 0 ? [] : ["Attempts:", ...tried.map((line) => `  - ${line}`)]),
  ].join("\n");
}

/** The last line that is not blank: most tools print the error there. */
function lastLine(text) {
  return text.trim().split("\n").at(-1)?.trim() || "no error message";
}
