/**
 * The file in which `sluice dev` leaves its variables while it runs. Commands that are started in the same folder, and name no
 * other deployment, use it.
 */

import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

/** Relative to the current folder. */
export const DEV_FILE = ".sluice/dev.env";

/** Undefined if there is no file. */
export function findDevFile(): string | undefined {
  return existsSync(DEV_FILE) ? DEV_FILE : undefined;
}

/** Writes the file, and deletes it when disposed, unless another `sluice dev` in the same folder has taken it over. */
export function writeDevFile(variables: Readonly<Record<string, string>>): Disposable {
  // The file has no escapes. Only the lanes in a JSON text can have such a quote.
  const text = Object.entries(variables)
    .map(([name, value]) => `${name}='${value.replaceAll("'", String.raw`\u0027`)}'\n`)
    .join("");
  mkdirSync(dirname(DEV_FILE), { recursive: true });
  writeFileSync(DEV_FILE, text);
  return {
    [Symbol.dispose]: () => {
      if (existsSync(DEV_FILE) && readFileSync(DEV_FILE, "utf8") === text) rmSync(DEV_FILE);
    },
  };
}
