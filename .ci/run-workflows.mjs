/**
 * Runs every workflow of a folder through `npm start`, once as it is and once with a task in its middle failing, and
 * writes "<passed> <failed>" to a file. What must come out is computed here anew, from the file alone.
 */

import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const LONGEST_SECONDS = 60;
const GIVE_UP_MS = 180_000;

const [folder = "", resultFile = ""] = process.argv.slice(2);
let passed = 0;
let failed = 0;

for (const name of readdirSync(folder).filter((entry) => entry.endsWith(".json"))) {
  const file = join(folder, name);
  const { tasks } = JSON.parse(readFileSync(file, "utf8")).workflow.specification;
  const middle = middleOf(tasks);
  check(`${name}`, file, [], expectedFor(tasks, undefined));
  check(`${name}, ${middle} fails`, file, ["--fail", middle], expectedFor(tasks, middle));
}
writeFileSync(resultFile, `${passed} ${failed}\n`);

function expectedFor(tasks, failing) {
  const skipped = failing === undefined ? 0 : countBelow(tasks, failing);
  const failures = failing === undefined ? 0 : 1;
  return {
    tasks: tasks.length,
    edges: tasks.reduce((sum, { parents }) => sum + parents.length, 0),
    success: tasks.length - skipped - failures,
    failed: failures,
    skipped,
    unfinished: 0,
  };
}

function countBelow(tasks, root) {
  const below = new Set();
  const open = [root];
  for (let id = open.pop(); id !== undefined; id = open.pop()) {
    for (const child of tasks.filter(({ parents }) => parents.includes(id) && !below.has(id))) {
      if (!below.has(child.id)) open.push(child.id);
    }
    below.add(id);
  }
  return below.size - 1;
}

/** The middle one of those with both parents and children; every graph here has one. */
function middleOf(tasks) {
  const inner = tasks.filter(({ parents, children }) => parents.length > 0 && children.length > 0);
  return inner[Math.floor(inner.length / 2)]?.id ?? tasks[0].id;
}

function check(title, file, extra, expected) {
  const startedAt = Date.now();
  const run = spawnSync("npm", ["start", "--silent", "--", "--workflow", file, ...extra, "--json"], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "pipe"],
    timeout: GIVE_UP_MS,
  });
  const seconds = (Date.now() - startedAt) / 1_000;
  const errors = faultsOf(run, expected);
  if (seconds > LONGEST_SECONDS) errors.push(`it took ${seconds} s`);
  if (errors.length === 0) passed += 1;
  else failed += 1;
  console.log(`${errors.length === 0 ? "ok  " : "FAIL"} ${title} (${seconds.toFixed(1)} s)`);
  for (const fault of errors) console.log(`       ${fault}`);
  if (errors.length > 0) console.log(run.stderr.replace(/^/gm, "       | "));
}

function faultsOf({ status, signal, stdout }, expected) {
  const errors = status === 0 ? [] : [`it ended with ${signal ?? `the status ${status}`}`];
  const lastLine = stdout.trimEnd().split("\n").at(-1);
  let summary;
  try {
    summary = JSON.parse(lastLine);
  } catch (error) {
    return [...errors, `the last line is not JSON: ${error.message}: ${lastLine}`];
  }
  for (const [name, value] of Object.entries(expected)) {
    if (summary[name] !== value) errors.push(`${name} is ${summary[name]}, not ${value}`);
  }
  // One message for each execution; on a slow machine some may be found missing, and be sent once more.
  const { messages } = summary;
  if (!(messages >= expected.tasks && messages <= 2 * expected.tasks)) {
    errors.push(`messages is ${messages}, and there are ${expected.tasks} executions`);
  }
  return errors;
}
