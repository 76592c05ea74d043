/** What is in a bundle in the place of something else. */

import { readFile } from "node:fs/promises";
import { isBuiltin } from "node:module";
import { fileURLToPath } from "node:url";
import type { Plugin } from "esbuild";
import { LIBRARY_FILES, LIBRARY_NAME } from "#lua/source.ts";

const REPLACEMENTS = fileURLToPath(new URL("replacements/", import.meta.url));

/** The text of the Lua files, in the place of the module that reads them from its folder. */
export const embedLibrary: Plugin = {
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

/**
 * Node's own modules are asked for by the module that uses them, when it is run. Imports of them would stand at the
 * top of the file and have every export evaluated, of which one of `node:http` loads a whole HTTP client.
 */
export const builtinsOnDemand: Plugin = {
  name: "builtins-on-demand",
  setup(builder) {
    builder.onResolve({ filter: /./ }, ({ path }) =>
      isBuiltin(path) ? { path, namespace: "node" } : undefined,
    );
    builder.onLoad({ filter: /./, namespace: "node" }, ({ path }) => ({
      contents: `module.exports = process.getBuiltinModule(${JSON.stringify(path)});`,
      loader: "js",
    }));
  },
};

/** Of its own package.json, which the AWS SDK imports whole, it tells the server the version. */
export const versionOnly: Plugin = {
  name: "version-only",
  setup(builder) {
    builder.onLoad({ filter: /[\\/]@aws-sdk[\\/][\w-]+[\\/]package\.json$/ }, async ({ path }) => {
      const { version }: { version?: unknown } = JSON.parse(await readFile(path, "utf8"));
      return { contents: JSON.stringify({ version }), loader: "json" };
    });
  },
};

/** A module that dependencies import, and that no function needs as it is. */
export interface Replacement {
  /** As it is imported. */
  readonly module: string;
  /** A file of the folder `replacements`. None: whoever comes to need the module gets an error that says so. */
  readonly by?: string;
}

export function replace(replacements: readonly Replacement[]): Plugin {
  const byModule = new Map(replacements.map((replacement) => [replacement.module, replacement]));
  return {
    name: "replace",
    setup(builder) {
      builder.onResolve({ filter: /./ }, ({ path }) => {
        const replacement = byModule.get(path);
        if (replacement === undefined) return undefined;
        const { by } = replacement;
        return by === undefined ? { path, namespace: "left-out" } : { path: `${REPLACEMENTS}${by}` };
      });
      builder.onLoad({ filter: /./, namespace: "left-out" }, ({ path }) => ({
        contents: `throw new Error(${JSON.stringify(`${path} is left out of the functions' bundles`)});`,
        loader: "js",
      }));
    },
  };
}
