import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** The library's name in Valkey (contract, section 6). */
export const LIBRARY_NAME = "flowfabric";

const INDENTED_COMMENT = /^[ \t]*--.*$/gm;
const INDENTATION = /^[ \t]+/gm;
const LONG_BRACKET = /\[=*\[/;

/** One `.lua` file: its path relative to the project, and its code without comments and indentation. */
export interface LibraryFile {
  readonly path: string;
  readonly text: string;
}

/**
 * The `.lua` files of this folder, which both editions share, and the files of each edition. The build replaces this
 * module with the files' text, so that a bundle reads no files.
 */
export const LIBRARY_FILES: {
  readonly shared: readonly LibraryFile[];
  readonly edition11: readonly LibraryFile[];
  readonly edition14: readonly LibraryFile[];
} = { shared: readFiles(""), edition11: readFiles("edition-11/"), edition14: readFiles("edition-14/") };

/** Reads the files in alphabetical order. A helper may only use helpers from files before its own. */
function readFiles(folder: string): LibraryFile[] {
  const path = fileURLToPath(new URL(`./${folder}`, import.meta.url));
  return readdirSync(path)
    .filter((name) => name.endsWith(".lua"))
    .sort()
    .map((name) => ({
      path: `lua/${folder}${name}`,
      text: compact(readFileSync(`${path}${name}`, "utf8")),
    }));
}

/**
 * Removes comments and indentation, two fifths of the text. Line numbers in the server's error messages still match the
 * files. This happens here and not in the build: sources and bundles must load the same text, since a revision has only
 * one.
 */
function compact(text: string): string {
  if (LONG_BRACKET.test(text))
    throw new Error("the Lua library must not use long brackets: text in them must not change");
  return text.replace(INDENTED_COMMENT, "").replace(INDENTATION, "");
}
