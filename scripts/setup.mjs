#!/usr/bin/env node
/**
 * Gets everything that the project needs on a machine that has only Node 20 or later, npm and git: the npm
 * packages (with them Node 24) and a valkey-server. Quiet and quick when all is there.
 *
 * Plain JavaScript without dependencies, since it runs before there are any. Its only output is standard error.
 */

import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { withLock } from "./setup/lock.mjs";
import { thisMachine } from "./setup/machine.mjs";
import { installPackages, PackagesError } from "./setup/packages.mjs";
import { findValkey, NoValkeyError, recordOf } from "./setup/valkey.mjs";

const LEAST_NODE = 20;

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const say = (line) => process.stderr.write(`sluice set-up: ${line}\n`);
const probes = thisMachine(root, say);

function setUp() {
  const installed = installPackages(probes);
  const { path, source } = findValkey(probes);
  const isNamed = (probes.environment.VALKEY_SERVER ?? "") !== "";
  // What the variable names holds for this run only.
  if (!isNamed && probes.readFile(recordOf(probes.folder))?.trim() !== path) {
    probes.writeFile(recordOf(probes.folder), `${path}\n`);
    say(`using ${path}, from ${source}`);
  } else if (installed) say(`using ${path}`);
}

if (Number(process.versions.node.split(".")[0]) < LEAST_NODE) {
  say(`this is Node ${process.versions.node}; Sluice needs Node ${LEAST_NODE} or later`);
  process.exitCode = 1;
} else {
  try {
    const onWait = (owner) => say(`waiting for another set-up (process ${owner})`);
    await withLock(join(probes.folder, "setup.lock"), setUp, onWait);
  } catch (error) {
    if (!(error instanceof NoValkeyError || error instanceof PackagesError)) throw error;
    say(error.message);
    process.exitCode = 1;
  }
}
