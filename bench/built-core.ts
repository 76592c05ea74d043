import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";
import { BUNDLING } from "#scripts/build.ts";

/** The bundled dispatcher, Valkey client and publisher. */
export type Core = typeof import("#bench/core.ts");

const ENTRY = fileURLToPath(new URL("core.ts", import.meta.url));

/** Bundles the core with the options of the functions and loads it, so that measurements apply to deployed code. */
export async function loadBuiltCore(): Promise<Core> {
  const folder = await mkdtemp(join(tmpdir(), "sluice-bench-"));
  try {
    const outfile = join(folder, "core.mjs");
    await build({ ...BUNDLING, entryPoints: [ENTRY], outfile });
    const core: Core = await import(pathToFileURL(outfile).href);
    return core;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
