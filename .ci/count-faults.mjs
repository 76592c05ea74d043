/**
 * Prints "<passed> <failed>" for a run of the fault harness. Arguments: the file with its output, and its exit status.
 *
 * The last line of the output is JSON. All cases pass when the run lost, wrongly skipped and duplicated
 * nothing, and left nothing inconsistent.
 */

import { readFileSync } from "node:fs";

const [file = "", status = "1"] = process.argv.slice(2);
const lastLine = readFileSync(file, "utf8").trimEnd().split("\n").at(-1) ?? "";
const { cases, lost, wrongly_skipped: wronglySkipped, duplicated, inconsistent } = JSON.parse(lastLine);
const errors = lost + wronglySkipped + duplicated + inconsistent;
const isBroken = status !== "0" || !(cases > 0);
console.log(errors === 0 && !isBroken ? `${cases} 0` : `0 ${Math.max(errors, 1)}`);
