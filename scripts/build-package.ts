/**
 * `node scripts/build-package.ts`: builds the npm package into `lib/`: a bundle and type declarations for each entry of
 * `exports` in package.json, and the command of `bin`. `npm pack` runs it. The functions in `dist/` must be built before.
 *
 * The entries share chunks and declarations, so that a value of one entry is accepted by the others. npm packages stay
 * imports: the build fails if package.json does not list exactly those that the bundles import.
 *
 * Exit status: 0, or 1 when the build failed.
 */

import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { isBuiltin } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { declarationsOf } from "#scripts/build/declarations.ts";
import { embedLibrary, embedVersion } from "#scripts/build/plugins.ts";
import { messageOf } from "#shared/errors.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const OUTPUT = join(ROOT, "lib");
/** The modules that consumers import, by the name of their bundle. */
const ENTRIES = {
  index: "api/index.ts",
  worker: "api/worker.ts",
  dispatch: "api/dispatch.ts",
  testing: "api/testing.ts",
};
/** Modules that run as processes of their own. They have no types. */
const PROGRAMS = {
  sluice: "cli/main.ts",
  "function-runtime": "local/function-runtime.ts",
};
/** Packages without which a dependency cannot be loaded, although it lists them as optional. */
const IMPORTED_BY_OTHERS = [
  // Needed by @aws-lambda-powertools/parameters, which reads the password if VALKEY_AUTH is secret.
  "@aws-sdk/client-secrets-manager",
];

async function buildPackage(): Promise<void> {
  await rm(OUTPUT, { recursive: true, force: true });
  const { metafile } = await build({
    absWorkingDir: ROOT,
    entryPoints: { ...ENTRIES, ...PROGRAMS },
    outdir: OUTPUT,
    // Beside the entries: modules find other files of the package relative to their own.
    chunkNames: "chunk-[hash]",
    bundle: true,
    splitting: true,
    packages: "external",
    platform: "node",
    target: "node24",
    format: "esm",
    legalComments: "none",
    plugins: [embedLibrary, embedVersion],
    metafile: true,
    logLevel: "warning",
  });
  const imported = Object.values(metafile.outputs).flatMap(({ imports }) =>
    imports.flatMap(({ path, external }) => (external === true && !isBuiltin(path) ? [packageOf(path)] : [])),
  );
  await checkManifest(new Set(imported));
  for (const [path, text] of declarationsOf(ROOT, Object.values(ENTRIES))) {
    const file = join(OUTPUT, "types", path);
    await mkdir(dirname(file), { recursive: true });
    await writeFile(file, text);
  }
}

function packageOf(specifier: string): string {
  return /^(?:@[^/]+\/)?[^/]+/.exec(specifier)?.[0] ?? specifier;
}

/** Throws unless the dependencies in package.json are exactly the packages that the bundles need. */
async function checkManifest(imported: ReadonlySet<string>): Promise<void> {
  const {
    dependencies,
    peerDependencies,
  }: Record<string, Record<string, string>> = JSON.parse(await readFile(join(ROOT, "package.json"), "utf8"));
  const listed = [...Object.keys(dependencies ?? {}), ...Object.keys(peerDependencies ?? {})];
  const needed = [...imported, ...IMPORTED_BY_OTHERS];
  const errors = [
    ...needed.filter((name) => !listed.includes(name)).map((name) => `the package needs ${name}: list it`),
    ...listed
      .filter((name) => !needed.includes(name))
      .map((name) => `the package does not import ${name}: move it to devDependencies`),
  ];
  if (errors.length > 0) throw new Error(errors.join("\n"));
}

try {
  await buildPackage();
} catch (error) {
  process.stderr.write(`build-package: ${messageOf(error)}\n`);
  process.exitCode = 1;
}
