#!/usr/bin/env node
/**
 * Installs what the project needs on a machine with Node 20 or later, npm and git: the npm packages (Node 24 is one of
 * them) and a valkey-server. It prints nothing and returns at once when both are in place.
 *
 * With `--packages-only` it installs the npm packages and does not look for a valkey-server. With `--browser` it also finds or
 * downloads a Chromium for the tests of the page. A machine without one can still run all other tests, so this is no failure.
 *
 * Plain JavaScript without dependencies, because it runs before any package is installed. All its output goes to
 * standard error. Exit status: 0, 1 when something cannot be installed, 2 when the arguments are invalid.
 */

import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { NoChromiumError, provideChromium } from "./setup/chromium.mjs";
import { withLock } from "./setup/lock.mjs";
import { thisMachine } from "./setup/machine.mjs";
import { installPackages, PackagesError } from "./setup/packages.mjs";
import { NoValkeyError, provideValkey } from "./setup/valkey.mjs";

const MIN_NODE = 20;
const HELP = `Usage: npm run setup -- [--packages-only | --browser]

Installs the npm packages of package-lock.json, and finds or installs a valkey-server (see VALKEY_SERVER).

  --packages-only  do not look for a valkey-server
  --browser        find or download Chromium, too, for the tests of the page (see CHROMIUM)
  --help           show this text

Exit status: 0, 1 when something cannot be installed, 2 when the arguments are invalid.
`;

const ARGUMENTS = new Set(["--packages-only", "--browser"]);

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const say = (line) => process.stderr.write(`sluice setup: ${line}\n`);
const probes = thisMachine(root, say);

function setUp(argument) {
  const installed = installPackages(probes);
  if (argument === "--packages-only") return;
  const { path, isNew } = provideValkey(probes);
  if (installed && !isNew) say(`using ${path}`);
  if (argument === "--browser") setUpBrowser();
}

function setUpBrowser() {
  try {
    provideChromium(probes);
  } catch (error) {
    if (!(error instanceof NoChromiumError)) throw error;
    say(`the tests of the page will fail: ${error.message}`);
  }
}

async function main(args) {
  if (args.includes("--help") || args.includes("-h")) {
    process.stderr.write(HELP);
    return 0;
  }
  const unknown = args.length > 1 ? args.at(-1) : args.find((arg) => !ARGUMENTS.has(arg));
  if (unknown !== undefined) {
    say(`unknown argument "${unknown}": run npm run setup -- --help`);
    return 2;
  }
  if (Number(process.versions.node.split(".")[0]) < MIN_NODE) {
    say(`this is Node ${process.versions.node}; Sluice needs Node ${MIN_NODE} or later`);
    return 1;
  }
  try {
    const onWait = (owner) => say(`waiting for another setup (process ${owner})`);
    await withLock(join(probes.folder, "setup.lock"), () => setUp(args[0]), onWait);
    return 0;
  } catch (error) {
    if (!(error instanceof NoValkeyError || error instanceof PackagesError)) throw error;
    say(error.message);
    return 1;
  }
}

process.exitCode = await main(process.argv.slice(2));
