/** Installs the npm packages if they are missing or differ from package-lock.json. */

import { createHash } from "node:crypto";

/** The Node version of the Lambda runtime, which the build and the tests use too. */
const MIN_NODE = 24;

/** The packages cannot be installed, or their Node does not run. */
export class PackagesError extends Error {
  name = "PackagesError";
}

/**
 * Makes node_modules match package-lock.json on this platform, and checks that its Node runs. Prints nothing if nothing
 * has to be installed. Throws a PackagesError.
 *
 * @param {import("./valkey.mjs").Probes & { root: string, architecture: string }} probes
 * @returns {boolean} whether anything was installed
 */
export function installPackages(probes) {
  const modules = `${probes.root}/node_modules`;
  const lock = probes.readFile(`${probes.root}/package-lock.json`);
  if (lock === undefined) throw new PackagesError(`package-lock.json not found in ${probes.root}`);
  const stampPath = `${modules}/.sluice-installed`;
  const stamp = `${createHash("sha256").update(lock).digest("hex")} ${probes.platform}-${probes.architecture}\n`;
  const isStamped = probes.readFile(stampPath) === stamp;
  if (isStamped && nodeError(probes) === undefined) return false;
  if (!isStamped && isInstalled(lock, probes.readFile(`${modules}/.package-lock.json`))) {
    // Already installed by `npm ci`: record that instead of repeating it.
    if (nodeError(probes) === undefined) {
      probes.writeFile(stampPath, stamp);
      return false;
    }
  }
  probes.say("installing the npm packages (npm ci)");
  npm(probes, ["ci", "--no-audit", "--no-fund", "--include=dev", "--ignore-scripts"]);
  // `node` is the only package that needs its install script. aws-lambda-ric's compiles, which fails on some machines.
  npm(probes, ["rebuild", "node", "--ignore-scripts=false"]);
  const problem = nodeError(probes);
  if (problem !== undefined) {
    throw new PackagesError(
      `${nodeOf(probes)} ${problem}. The package "node" brings Node ${MIN_NODE} and needs its install script: ` +
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
 * Whether npm's record of an installation matches the lock file. Optional packages may be missing: they are for other
 * platforms.
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
  return major >= MIN_NODE ? undefined : `is Node ${stdout.trim()}, and ${MIN_NODE} or later is needed`;
}
