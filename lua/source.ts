import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** The name under which the library is loaded (contract, section 6). */
export const LIBRARY_NAME = "flowfabric";

const COMMENT_LINE = /^[ \t]*--.*$/gm;
const LONG_BRACKET = /\[=*\[/;

/** One `.lua` file: its path below the project, and its code. */
export interface LibraryFile {
  readonly path: string;
  readonly text: string;
}

/**
 * The `.lua` files of this folder, which every edition has, and those that one edition has besides. The build puts
 * their text in this module's place, so that a bundle needs no files.
 */
export const LIBRARY_FILES: {
  readonly shared: readonly LibraryFile[];
  readonly edition11: readonly LibraryFile[];
  readonly edition14: readonly LibraryFile[];
} = { shared: filesOf(""), edition11: filesOf("edition-11/"), edition14: filesOf("edition-14/") };

/** In the order of their names, on which the helpers rely: each uses only what stands before it. */
function filesOf(folder: string): LibraryFile[] {
  const path = fileURLToPath(new URL(`./${folder}`, import.meta.url));
  return readdirSync(path)
    .filter((name) => name.endsWith(".lua"))
    .sort()
    .map((name) => ({ path: `lua/${folder}${name}`, text: codeOf(readFileSync(`${path}${name}`, "utf8")) }));
}

/**
 * Without its comments, a third of the text: whoever reads the library in Valkey finds them in the file that the
 * line before names. The lines stay, and with them the numbers in the server's messages. It is done here, and not by the
 * build: ensureLibrary compares texts, and sources and bundles must load the same one.
 */
function codeOf(text: string): string {
  if (LONG_BRACKET.test(text))
    throw new Error("a comment cannot be told from text where Lua has long brackets");
  return text.replace(COMMENT_LINE, "");
}
