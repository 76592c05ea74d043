/**
 * Runs every workflow of a folder with `npm start`, once unchanged and once with a failing task in its middle, and
 * writes "<passed> <failed>" to a file. Arguments: the folder, and that file.
 *
 * The expected counts are computed here from the workflow file, independently of the code under test.
 */

import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const MAX_SECONDS = 60;
const TIMEOUT_MS = 180_000;

const [folder = "", resultFile = ""] = process.argv.slice(2);
let passed = 0;
let failed = 0;

for (const name of readdirSync(folder).filter((entry) => entry.endsWith(".json"))) {
  const file = join(folder, name);
  const { tasks } = JSON.parse(readFileSync(file, "utf8")).workflow.specification;
  const middle = middleOf(tasks);
  // Once with the dispatch function for everything, and once with a worker that updates the children itself.
  const all = expectedFor(tasks, undefined);
  check(`${name}`, file, ["--dispatch", "queue"], all, all.tasks);
  const some = expectedFor(tasks, middle);
  check(`${name}, ${middle} fails`, file, ["--fail", middle], some, some.skipped);
}
writeFileSync(resultFile, `${passed} ${failed}\n`);

function expectedFor(tasks, failing) {
  const skipped = failing === undefined ? 0 : countDescendants(tasks, failing);
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

function countDescendants(tasks, root) {
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

/** The middle one of the tasks that have both parents and children. */
function middleOf(tasks) {
  const inner = tasks.filter(({ parents, children }) => parents.length > 0 && children.length > 0);
  return inner[Math.floor(inner.length / 2)]?.id ?? tasks[0].id;
}

function check(title, file, extra, expected, messages) {
  const startedAt = Date.now();
  const run = spawnSync("npm", ["start", "--silent", "--", "--workflow", file, ...extra, "--json"], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "pipe"],
    timeout: TIMEOUT_MS,
  });
  const seconds = (Date.now() - startedAt) / 1_000;
  const errors = errorsOf(run, expected, messages);
  if (seconds > MAX_SECONDS) errors.push(`took ${seconds} s, more than ${MAX_SECONDS} s`);
  if (errors.length === 0) passed += 1;
  else failed += 1;
  console.log(`${errors.length === 0 ? "ok  " : "FAIL"} ${title} (${seconds.toFixed(1)} s)`);
  for (const error of errors) console.log(`       ${error}`);
  if (errors.length > 0) console.log(run.stderr.replace(/^/gm, "       | "));
}

function errorsOf({ status, signal, stdout }, expected, least) {
  const errors = status === 0 ? [] : [`ended with ${signal ?? `status ${status}`}`];
  const lastLine = stdout.trimEnd().split("\n").at(-1);
  let summary;
  try {
    summary = JSON.parse(lastLine);
  } catch (error) {
    return [...errors, `the last line is not JSON (${error.message}): ${lastLine}`];
  }
  for (const [name, value] of Object.entries(expected)) {
    if (summary[name] !== value) errors.push(`${name} is ${summary[name]}, not ${value}`);
  }
  // One message for each completion that the dispatch function handles. On a slow machine the reconciler may send some again.
  const { messages } = summary;
  if (!(messages >= least && messages <= 2 * expected.tasks)) {
    errors.push(`messages is ${messages}, expected ${least} to ${2 * expected.tasks}`);
  }
  return errors;
}
