export { LIBRARY_NAME, LIBRARY_SOURCE } from "#lua/source.ts";

/** The names of the functions that a library source registers. */
export function functionNames(source: string): string[] {
  return [...source.matchAll(/function_name\s*=\s*'([^']+)'/g)].map((match) => match[1] ?? "");
}
