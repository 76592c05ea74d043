/** The version of Sluice. Bundles contain its text: their plugin `embedVersion` replaces this module. */

import { readFileSync } from "node:fs";

const { version }: { readonly version: string } = JSON.parse(
  readFileSync(new URL("../../package.json", import.meta.url), "utf8"),
);

export const VERSION = version;
