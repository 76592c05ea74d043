import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { ConfigurationError } from "#shared/errors.ts";

/** The path of the built bundle of a function. Throws a ConfigurationError if it is not built. */
export function bundleOf(name: string): string {
  const path = fileURLToPath(new URL(`../../dist/${name}/index.mjs`, import.meta.url));
  if (existsSync(path)) return path;
  throw new ConfigurationError([`the function ${name} is not built: run npm run build`]);
}
