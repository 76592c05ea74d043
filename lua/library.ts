import { LIBRARY_REVISION } from "#lua/revision.ts";
import { LIBRARY_FILES, LIBRARY_NAME, type LibraryFile } from "#lua/source.ts";
import type { Edition } from "#shared/contract/edition.ts";

export { LIBRARY_NAME };

const SOURCES = new Map<Edition, string>();

/**
 * Returns the library's source for one edition (contract, section 7). The order is: shared helpers, the edition's
 * helpers, shared functions, the edition's functions. The revision comes before them, and a comment line before each
 * file names it.
 */
export function librarySource(edition: Edition): string {
  let source = SOURCES.get(edition);
  if (source === undefined) {
    source = join([...LIBRARY_FILES.shared, ...LIBRARY_FILES[`edition${edition}`]]);
    SOURCES.set(edition, source);
  }
  return source;
}

function join(files: readonly LibraryFile[]): string {
  const ordered = [...files.filter((file) => !isFunction(file)), ...files.filter(isFunction)];
  const parts = ordered.map(({ path, text }) => `-- source: ${path}\n${text}`);
  return `#!lua name=${LIBRARY_NAME}\nlocal LIBRARY_REVISION = '${LIBRARY_REVISION}'\n${parts.join("\n")}`;
}

function isFunction({ path }: LibraryFile): boolean {
  return /\/(ff|sluice)_\w+\.lua$/.test(path);
}

/** Returns the names of the functions that a library source registers. */
export function functionNames(source: string): string[] {
  return [...source.matchAll(/function_name\s*=\s*'([^']+)'/g)].map((match) => match[1] ?? "");
}
