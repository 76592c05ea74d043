/**
 * Prints "<passed> <failed>" of a run of the fault harness, from what it wrote and its exit status. Its last line is
 * JSON: a case counts as passed where nothing was lost, wrongly skipped or duplicated in the whole run.
 */

import { readFileSync } from "node:fs";

const [file = "", status = "1"] = process.argv.slice(2);
const lastLine = readFileSync(file, "utf8").trimEnd().split("\n").at(-1) ?? "";
const { cases, lost, wrongly_skipped: wronglySkipped, duplicated } = JSON.parse(lastLine);
const errors = lost + wronglySkipped + duplicated;
const isBroken = status !== "0" || !(cases > 0);
console.log(errors === 0 && !isBroken ? `${cases} 0` : `0 ${Math.max(errors, 1)}`);
