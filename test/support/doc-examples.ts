import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));

/** The pages whose TypeScript examples import the npm package. The blocks of a page form one module. */
export const PAGES_WITH_EXAMPLES = [
  "README.md",
  "docs/install.md",
  "docs/embed.md",
  "docs/operations.md",
] as const;

/** The `ts` blocks of a page, in order. */
export function examplesOf(page: string): string[] {
  const text = readFileSync(`${ROOT}${page}`, "utf8");
  return [...text.matchAll(/^```ts\n([\s\S]*?)^```$/gm)].map(([, code = ""]) => code);
}
