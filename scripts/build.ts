/**
 * `npm run build`: bundles each function into `dist/<name>/index.mjs`, which exports `handler`, and the page of `sluice dev`
 * into `dist/page`. Prints the sizes of the bundles and of what they contain. `--help` lists the options.
 */

import { mkdir, readdir, rm, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { type BuildOptions, build } from "esbuild";
import { REPLACEMENTS, unlistedPackages, unusedReplacements } from "#scripts/build/allowed-packages.ts";
import { type BundleContents, contentsOf } from "#scripts/build/contents.ts";
import { buildPage } from "#scripts/build/page.ts";
import {
  builtinsOnDemand,
  embedLibrary,
  embedVersion,
  replace,
  versionOnly,
} from "#scripts/build/plugins.ts";
import { describeBundles } from "#scripts/build/report.ts";
import { noticesOf, readPackages, sbomOf } from "#scripts/build/third-party.ts";
import { messageOf } from "#shared/errors.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const ENTRY = "index";
const NOTICES = "THIRD_PARTY_NOTICES.txt";
/** CycloneDX's recommended file name. */
const SBOM = "sluice.cdx.json";

/** The esbuild options of every bundle. The benchmarks use them too, so that they measure what is deployed. */
export const BUNDLING = {
  absWorkingDir: ROOT,
  bundle: true,
  platform: "node",
  target: "node24",
  format: "esm",
  mainFields: ["module", "main"],
  minify: true,
  // Class names reach users: Lambda's `errorType` and stack traces show them.
  keepNames: true,
  sourcemap: "linked",
  sourcesContent: false,
  legalComments: "none",
  plugins: [embedLibrary, embedVersion, builtinsOnDemand, versionOnly, replace(REPLACEMENTS)],
  logLevel: "warning",
} satisfies BuildOptions;

export interface Bundle {
  readonly contents: BundleContents;
  /** The files that are loaded and their source maps, by name. */
  readonly files: ReadonlyMap<string, Uint8Array>;
}

/** Bundles a module in memory. */
export async function bundle(module: string): Promise<Bundle> {
  const { metafile, outputFiles } = await build({
    ...BUNDLING,
    entryPoints: { [ENTRY]: module },
    // Not written: it is the base of the paths in the source maps.
    outdir: "dist/function",
    outExtension: { ".js": ".mjs" },
    // Dynamic imports become separate files, so that Node does not parse them at every start.
    splitting: true,
    metafile: true,
    write: false,
  });
  const contents = contentsOf(metafile, `${ENTRY}.mjs`);
  const files = outputFiles
    .map(({ path, contents: bytes }) => [basename(path), bytes] as const)
    .filter(([name]) => contents.files.has(name.replace(/\.map$/, "")));
  return { contents, files: new Map(files) };
}

/**
 * Builds each function into `<folder>/<name>`, with the licence notices of its packages, and their SBOM into `<folder>`.
 * Returns the contents of the bundles. An invalid build writes nothing.
 */
export async function buildFunctions(folder = join(ROOT, "dist")): Promise<Map<string, BundleContents>> {
  const bundles = new Map<string, Bundle>();
  for (const name of (await readdir(join(ROOT, "functions"))).sort()) {
    bundles.set(name, await bundle(join(ROOT, "functions", name, "handler.ts")));
  }
  const contents = new Map([...bundles].map(([name, made]) => [name, made.contents]));
  check(contents);
  const packages = new Map([...contents].map(([name, { folders }]) => [name, readPackages(folders)]));
  for (const [name, { files }] of bundles) {
    const notices = Buffer.from(noticesOf(packages.get(name) ?? []));
    await write(join(folder, name), new Map([...files, [NOTICES, notices]]));
  }
  await writeFile(join(folder, SBOM), `${JSON.stringify(sbomOf(packages), null, 2)}\n`);
  return contents;
}

function check(bundles: ReadonlyMap<string, BundleContents>): void {
  const errors = [
    ...[...bundles].flatMap(([name, contents]) =>
      unlistedPackages(contents).map(
        (one) => `${name} contains ${one}, which scripts/build/allowed-packages.ts does not list`,
      ),
    ),
    ...unusedReplacements([...bundles.values()]).map(
      (module) =>
        `no bundle imports ${module}: remove its replacement from scripts/build/allowed-packages.ts`,
    ),
  ];
  if (errors.length > 0) throw new Error(errors.join("\n"));
}

async function write(folder: string, files: ReadonlyMap<string, Uint8Array>): Promise<void> {
  await mkdir(folder, { recursive: true });
  // The entry last, because it loads the others.
  const entryLast = [...files].sort(([one], [other]) => Number(isOfEntry(one)) - Number(isOfEntry(other)));
  for (const [name, bytes] of entryLast) await writeFile(join(folder, name), bytes);
  // Other names contain a hash, so files of an earlier build would remain and be deployed.
  for (const name of await readdir(folder)) {
    if (!files.has(name)) await rm(join(folder, name), { recursive: true });
  }
}

function isOfEntry(name: string): boolean {
  return name.startsWith(`${ENTRY}.`);
}

const HELP = `Usage: npm run build -- [--explain] [--quiet]

Bundles each function into dist/<name>/index.mjs and the page of sluice dev into dist/page, and prints the sizes of the
bundles and of what they contain.

  --explain  list every package of a bundle
  --quiet    print nothing
  --help     show this text

Exit status: 0, 1 when the build failed, 2 when the arguments are invalid.
`;

async function main(): Promise<number> {
  let options: { help?: boolean; explain?: boolean; quiet?: boolean };
  try {
    const flag = { type: "boolean" } as const;
    options = parseArgs({ options: { help: { ...flag, short: "h" }, explain: flag, quiet: flag } }).values;
  } catch (error) {
    process.stderr.write(`build: ${messageOf(error)}\n`);
    return 2;
  }
  if (options.help) {
    process.stdout.write(HELP);
    return 0;
  }
  try {
    const bundles = await buildFunctions();
    const pageBytes = await buildPage(join(ROOT, "dist/page"));
    if (!options.quiet) {
      console.log(describeBundles(bundles, options.explain === true));
      console.log(`page: ${Math.round(pageBytes / 1_000)} KB`);
    }
    return 0;
  } catch (error) {
    process.stderr.write(`build: ${messageOf(error)}\n`);
    return 1;
  }
}

if (import.meta.main) process.exitCode = await main();
