/**
 * Prints "<passed> <failed>" for a test run. Arguments: its JSON report, and its exit status.
 *
 * A skipped test, a file that could not be loaded and a run that crashed count as failures.
 */

import { existsSync, readFileSync } from "node:fs";

const [file = "", status = "1"] = process.argv.slice(2);
const report = existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : { testResults: [] };
const tests = report.testResults.flatMap(({ assertionResults }) => assertionResults);
const passed = tests.filter((test) => test.status === "passed").length;
const brokenFiles = report.testResults.filter(
  (result) => result.status === "failed" && result.assertionResults.every((test) => test.status === "passed"),
);
const failed = tests.length - passed + brokenFiles.length;
const isBroken = status !== "0" || tests.length === 0;
console.log(passed, failed === 0 && isBroken ? 1 : failed);
