/**
 * Finds a valkey-server that runs, or gets one, without changing the machine where that can be avoided.
 *
 * The order of the search is here and pure: everything that looks at the machine or changes it comes in as
 * a probe, so that the tests can put any machine in its place.
 *
 * @typedef {{ status: number | null, stdout: string, stderr: string }} Ran
 * @typedef {object} Probes
 * @property {Readonly<Record<string, string | undefined>>} environment
 * @property {string} platform as process.platform has it
 * @property {string} folder absolute; where the set-up keeps what it makes
 * @property {(command: string, args: readonly string[], options?: { quiet?: boolean }) => Ran} run never throws; a
 *   command that cannot be started has the status null
 * @property {(path: string) => string | undefined} readFile undefined when it cannot be read
 * @property {(path: string) => boolean} exists
 * @property {(folder: string) => string[]} list file names, sorted; empty when there is no such folder
 * @property {(path: string, text: string, executable?: boolean) => void} writeFile with its folders, in one step
 * @property {(from: string, to: string) => void} move replaces what is there
 * @property {(path: string) => void} remove a file or a whole folder
 * @property {(line: string) => void} say
 */

import { fromApt } from "./apt.mjs";
import { fromContainer } from "./container.mjs";

/** The oldest release with the functions that the library needs. */
const LEAST_VERSION = Object.freeze([7, 2]);

/** Everything was tried; the message says what to install. */
export class NoValkeyError extends Error {
  name = "NoValkeyError";
}

/**
 * The path of a valkey-server of at least 7.2, and where it came from. Throws a NoValkeyError when VALKEY_SERVER
 * names something else (what was asked for is not quietly replaced), or when there is none to be had.
 *
 * @param {Probes} probes
 * @returns {{ path: string, source: string }}
 */
export function findValkey(probes) {
  const named = probes.environment.VALKEY_SERVER ?? "";
  if (named !== "") {
    const fault = faultOf(probes, named);
    if (fault === undefined) return { path: named, source: "the variable VALKEY_SERVER" };
    throw new NoValkeyError(`VALKEY_SERVER names ${named}, which ${fault}`);
  }
  const tried = [];
  for (const { source, find } of SEARCH) {
    const path = find(probes, (why) => tried.push(`${source}: ${why}`));
    if (path === undefined) continue;
    const fault = faultOf(probes, path);
    if (fault === undefined) return { path, source };
    tried.push(`${source}: ${path} ${fault}`);
  }
  throw new NoValkeyError(adviceOf(tried));
}

/** Where the path is recorded for the rest of the project: one line, one absolute path. */
export function recordOf(folder) {
  return `${folder}/valkey-server`;
}

/** Why an executable will not do, or undefined when it will. */
function faultOf(probes, path) {
  const { status, stdout, stderr } = probes.run(path, ["--version"], { quiet: true });
  if (status === null) return "cannot be started";
  if (status !== 0) return `fails: ${lastLine(stderr || stdout)}`;
  const version = /\bv=(\d+)\.(\d+)\.(\d+)/.exec(stdout);
  if (!/^(Valkey|Server)\b/i.test(stdout) || version === null) return "is not a valkey-server";
  const [major, minor] = [Number(version[1]), Number(version[2])];
  const [leastMajor, leastMinor] = LEAST_VERSION;
  if (major > leastMajor || (major === leastMajor && minor >= leastMinor)) return undefined;
  return `is version ${major}.${minor}, and ${LEAST_VERSION.join(".")} or later is needed`;
}

const SEARCH = [
  { source: "the record of an earlier set-up", find: recorded },
  { source: "the path", find: onPath },
  { source: "Homebrew", find: fromHomebrew },
  { source: "the distribution's package", find: (probes, why) => fromApt(probes, why) },
  { source: "the distribution's backports", find: (probes, why) => fromApt(probes, why, "backports") },
  { source: "a container engine", find: fromContainer },
];

function recorded(probes) {
  const path = probes.readFile(recordOf(probes.folder))?.trim() ?? "";
  if (path !== "" && probes.exists(path)) return path;
  // The project may have been moved since: what was unpacked has moved along.
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
  // Homebrew tells the prefix of a formula that is not installed, too.
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
    `no valkey-server of version ${LEAST_VERSION.join(".")} or later was found, and none could be got.`,
    "Install Valkey in one of these ways, and run the command again:",
    "  - macOS: brew install valkey",
    "  - Debian 13 or later, Ubuntu 24.04 or later: sudo apt-get install valkey-server",
    "  - Debian 12: the package valkey-server of the suite bookworm-backports",
    "  - Fedora, Alpine, Arch: the package valkey",
    "  - or start a container engine (Docker or Podman)",
    "  - or set VALKEY_SERVER to the path of a valkey-server",
    ...(tried.length === 0 ? [] : ["What was tried:", ...tried.map((line) => `  - ${line}`)]),
  ].join("\n");
}

/** The last line of a command's output that is not blank: most tools say there what went wrong. */
function lastLine(text) {
  return text.trim().split("\n").at(-1)?.trim() || "it gave no reason";
}
