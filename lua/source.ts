import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** The name under which the library is loaded (contract, section 6). */
export const LIBRARY_NAME = "flowfabric";

/**
 * The library's source: every `.lua` file of this folder, helpers first, each behind a line that names it.
 * The build puts the joined text in this module's place, so that a bundle needs no files.
 */
export const LIBRARY_SOURCE: string = joinLibrary(fileURLToPath(new URL(".", import.meta.url)));

function joinLibrary(folder: string): string {
  const files = readdirSync(folder).filter((name) => name.endsWith(".lua"));
  const ordered = [...files.filter((name) => !isFunction(name)), ...files.filter(isFunction)];
  const parts = ordered.map((name) => `-- source: lua/${name}\n${readFileSync(`${folder}${name}`, "utf8")}`);
  return `#!lua name=${LIBRARY_NAME}\n\n${parts.join("\n")}`;
}

function isFunction(name: string): boolean {
  return name.startsWith("ff_");
}
