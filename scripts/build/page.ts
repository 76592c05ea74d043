/** Bundles the page of `sluice dev`: what a browser loads from the local server, and nothing from elsewhere. */

import { copyFile, mkdir, rm, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { contentsOf } from "#scripts/build/contents.ts";
import { noticesOf, readPackages } from "#scripts/build/third-party.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
/** Files that are sent as they are. */
const STATIC = ["index.html", "favicon.svg"];

/** Builds the page into a folder, with the licence notices of its packages. Returns the bytes of its code and styles. */
export async function buildPage(folder: string): Promise<number> {
  const { metafile, outputFiles } = await build({
    absWorkingDir: ROOT,
    entryPoints: [
      { in: "page/main.tsx", out: "app" },
      { in: "page/style/main.css", out: "app" },
    ],
    outdir: "dist/page",
    bundle: true,
    platform: "browser",
    target: ["chrome123", "firefox120", "safari17.5"],
    format: "esm",
    tsconfig: join(ROOT, "page/tsconfig.json"),
    minify: true,
    legalComments: "none",
    metafile: true,
    write: false,
    logLevel: "warning",
  });
  const { folders } = contentsOf(metafile, "app.js");
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  for (const { path, contents } of outputFiles) await writeFile(join(folder, basename(path)), contents);
  for (const name of STATIC) await copyFile(join(ROOT, "page", name), join(folder, name));
  await writeFile(join(folder, "THIRD_PARTY_NOTICES.txt"), noticesOf(readPackages(folders)));
  return outputFiles.reduce((sum, { contents }) => sum + contents.length, 0);
}
