/**
 * Finds a Chromium for the tests of the page, or downloads Debian's. Chrome serves, too.
 *
 * @typedef {import("./valkey.mjs").Probes} Probes
 */

import { fromApt } from "./apt.mjs";

/** The oldest release with everything that the page uses: the CSS function light-dark(). */
const MIN_VERSION = 123;
const NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
const MAC_APPLICATIONS = [
  "/Applications/Chromium.app/Contents/MacOS/Chromium",
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
];

/** The distribution's package, unpacked. A machine without fonts uses those that the package needs. */
const PACKAGE = Object.freeze({
  name: "chromium",
  folder: "chromium",
  program: "usr/lib/chromium/chromium",
  files: {
    "fonts.conf": `<?xml version="1.0"?>
<fontconfig>
  <dir prefix="relative">usr/share/fonts</dir>
  <cachedir prefix="xdg">fontconfig</cachedir>
</fontconfig>
`,
  },
  // PulseAudio keeps libraries in a folder of its own.
  prepare: `for folder in "$here"/usr/lib/*-linux-*/pulseaudio; do LD_LIBRARY_PATH="$LD_LIBRARY_PATH:$folder"; done
if [ ! -e /etc/fonts/fonts.conf ]; then export FONTCONFIG_FILE="$here/fonts.conf"; fi
`,
});

/** No Chromium is available. The message says how to install one. */
export class NoChromiumError extends Error {
  name = "NoChromiumError";
}

/**
 * Returns the path of a Chromium that runs, without installing anything. Throws a NoChromiumError if there is none, or if
 * CHROMIUM names anything else.
 *
 * @param {Probes} probes
 * @returns {string}
 */
export function findChromium(probes) {
  return search(probes, [unpacked, onPath, onMac]);
}

/**
 * Finds a Chromium like `findChromium`, or downloads one into the setup's folder: about 125 MB.
 *
 * @param {Probes} probes
 * @returns {string} the path
 */
export function provideChromium(probes) {
  return search(probes, [unpacked, onPath, onMac, (why) => fromApt(probes, PACKAGE, why)]);
}

function search(probes, sources) {
  const named = probes.environment.CHROMIUM ?? "";
  if (named !== "") {
    const problem = problemOf(probes, named);
    if (problem === undefined) return named;
    throw new NoChromiumError(`CHROMIUM names ${named}, which ${problem}`);
  }
  const tried = [];
  for (const find of sources) {
    const path = find((why) => tried.push(`the distribution's package: ${why}`), probes);
    if (path === undefined) continue;
    const problem = problemOf(probes, path);
    if (problem === undefined) return path;
    tried.push(`${path} ${problem}`);
  }
  throw new NoChromiumError(adviceOf(tried));
}

function unpacked(_why, probes) {
  const path = `${probes.folder}/${PACKAGE.folder}/${PACKAGE.name}`;
  return probes.exists(path) ? path : undefined;
}

function onPath(_why, probes) {
  const folders = (probes.environment.PATH ?? "").split(":").filter((folder) => folder.startsWith("/"));
  const paths = NAMES.flatMap((name) => folders.map((folder) => `${folder}/${name}`));
  // Ubuntu's package is a script that asks for the snap.
  return paths.find((path) => probes.exists(path) && problemOf(probes, path) === undefined);
}

function onMac(_why, probes) {
  return probes.platform === "darwin" ? MAC_APPLICATIONS.find((path) => probes.exists(path)) : undefined;
}

/** Why an executable cannot be used. Undefined if it can. */
function problemOf(probes, path) {
  const { status, stdout, stderr } = probes.run(path, ["--version"], { quiet: true });
  if (status === null) return "cannot be started";
  if (status !== 0) return `fails: ${(stderr || stdout).trim().split("\n").at(-1) || "no error message"}`;
  const major = Number(/^(?:Chromium|Google Chrome)\b\D*(\d+)\./.exec(stdout)?.[1]);
  if (Number.isNaN(major)) return "is not a Chromium";
  return major >= MIN_VERSION ? undefined : `is version ${major}, and ${MIN_VERSION} or later is needed`;
}

function adviceOf(tried) {
  return [
    `Chromium ${MIN_VERSION} or later was not found. The tests of the page need it; nothing else does.`,
    "Provide it in one of these ways, and run the command again:",
    "  - Debian: npm run setup -- --browser downloads the package chromium, without root",
    "  - macOS, Ubuntu and others: install Google Chrome or Chromium",
    "  - or set CHROMIUM to the path of one of them",
    ...(tried.length === 0 ? [] : ["Attempts:", ...tried.map((line) => `  - ${line}`)]),
  ].join("\n");
}
