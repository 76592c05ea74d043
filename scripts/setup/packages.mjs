/** The npm packages: installed when they are missing or another lock file asks for others, left alone otherwise. */

import { createHash } from "node:crypto";

/** Lambda's runtime; the build and the tests run on the same. */
const LEAST_NODE = 24;

/** The packages cannot be installed, or do not give a Node that runs. */
export class PackagesError extends Error {
  name = "PackagesError";
}

/**
 * Sees to it that node_modules is what package-lock.json says, for this platform, and that its Node runs. Says
 * nothing where nothing is to do. Throws a PackagesError.
 *
 * @param {import("./valkey.mjs").Probes & { root: string, architecture: string }} probes
 * @returns {boolean} whether anything was installed
 */
export function installPackages(probes) {
  const modules = `${probes.root}/node_modules`;
  const lock = probes.readFile(`${probes.root}/package-lock.json`);
  if (lock === undefined) throw new PackagesError(`there is no package-lock.json in ${probes.root}`);
  const stampPath = `${modules}/.sluice-installed`;
  const stamp = `${createHash("sha256").update(lock).digest("hex")} ${probes.platform}-${probes.architecture}\n`;
  const isStamped = probes.readFile(stampPath) === stamp;
  if (isStamped && nodeError(probes) === undefined) return false;
  if (!isStamped && isInstalled(lock, probes.readFile(`${modules}/.package-lock.json`))) {
    // Somebody ran npm ci: take note of it, and do not repeat it.
    if (nodeError(probes) === undefined) {
      probes.writeFile(stampPath, stamp);
      return false;
    }
  }
  probes.say("installing the npm packages (npm ci)");
  npm(probes, ["ci", "--no-audit", "--no-fund", "--include=dev", "--ignore-scripts"]);
  // The only one that is nothing without its install script. Another one compiles, which not every machine can.
  npm(probes, ["rebuild", "node", "--ignore-scripts=false"]);
  const fault = nodeError(probes);
  if (fault !== undefined) {
    throw new PackagesError(
      `${nodeOf(probes)} ${fault}. The package "node" brings Node ${LEAST_NODE} and needs its install script: ` +
        "run npm rebuild node --ignore-scripts=false",
    );
  }
  probes.writeFile(stampPath, stamp);
  return true;
}

/** Throws a PackagesError. */
function npm(probes, args) {
  const { status, stderr } = probes.run("npm", [...args, "--loglevel=error"]);
  if (status === null) throw new PackagesError(`npm cannot be started: ${stderr}`);
  if (status !== 0) throw new PackagesError(`npm ${args[0]} failed with the status ${status}`);
}

/**
 * Whether what npm noted of an install is what the lock file asks for. Packages for other platforms are optional
 * and may be missing.
 */
export function isInstalled(lockText, installedText) {
  const wanted = packagesOf(lockText);
  const installed = packagesOf(installedText);
  if (wanted === undefined || installed === undefined) return false;
  delete wanted[""];
  const isKnown = ([path, entry]) => wanted[path]?.version === entry.version;
  const isThere = ([path, entry]) => installed[path] !== undefined || entry.optional || entry.peer;
  return Object.entries(installed).every(isKnown) && Object.entries(wanted).every(isThere);
}

function packagesOf(text) {
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text).packages;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

function nodeOf(probes) {
  return `${probes.root}/node_modules/.bin/node`;
}

function nodeError(probes) {
  const { status, stdout, stderr } = probes.run(nodeOf(probes), ["--version"], { quiet: true });
  if (status === null) return "cannot be started";
  if (status !== 0) return `fails: ${stderr.trim()}`;
  const major = Number(/^v(\d+)\./.exec(stdout)?.[1]);
  return major >= LEAST_NODE ? undefined : `is Node ${stdout.trim()}, and ${LEAST_NODE} or later is needed`;
}
