/** `npm run build`: each function becomes one file, `dist/<name>/index.mjs`, that exports `handler`. */

import { readdirSync, statSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type BuildOptions, build, type Plugin } from "esbuild";
import { LIBRARY_FILES, LIBRARY_NAME } from "#lua/source.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

/** Puts the text of the Lua files in the place of the module that reads them from its folder. */
const embedLibrary: Plugin = {
  name: "embed-library",
  setup(builder) {
    builder.onLoad({ filter: /[\\/]lua[\\/]source\.ts$/ }, () => ({
      contents: Object.entries({ LIBRARY_NAME, LIBRARY_FILES })
        .map(([name, value]) => `export const ${name} = ${JSON.stringify(value)};`)
        .join("\n"),
      loader: "js",
    }));
  },
};

/** How a bundle is made of an entry point: what is measured is made like what is deployed. */
export const BUNDLING = {
  bundle: true,
  platform: "node",
  target: "node24",
  format: "esm",
  mainFields: ["module", "main"],
  minify: true,
  sourcemap: "linked",
  sourcesContent: false,
  legalComments: "none",
  plugins: [embedLibrary],
  // iovalkey is CommonJS, and asks for Node's own modules by require().
  banner: {
    js: 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);',
  },
  logLevel: "warning",
} satisfies BuildOptions;

/** Builds every function; each file's path below the project, and its size in bytes. */
export async function buildFunctions(): Promise<{ readonly path: string; readonly bytes: number }[]> {
  const built: { path: string; bytes: number }[] = [];
  for (const name of readdirSync(`${root}functions`)) {
    const path = `dist/${name}/index.mjs`;
    await build({
      entryPoints: [`${root}functions/${name}/handler.ts`],
      outfile: `${root}${path}`,
      ...BUNDLING,
    });
    built.push({ path, bytes: statSync(`${root}${path}`).size });
  }
  return built;
}

if (import.meta.main) {
  for (const { path, bytes } of await buildFunctions())
    console.log(`${path}  ${Math.round(bytes / 1024)} KB`);
}
