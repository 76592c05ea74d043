/** esbuild plugins that replace modules in a bundle. */

import { readFile } from "node:fs/promises";
import { isBuiltin } from "node:module";
import { fileURLToPath } from "node:url";
import type { Plugin } from "esbuild";
import { LIBRARY_FILES, LIBRARY_NAME } from "#lua/source.ts";
import { VERSION } from "#shared/runtime/version.ts";

const REPLACEMENTS = fileURLToPath(new URL("replacements/", import.meta.url));

/** Replaces lua/source.ts, which reads the Lua files from its folder, with a module that contains their text. */
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

/** Replaces shared/runtime/version.ts, which reads the version from package.json, with a module that contains it. */
export const embedVersion: Plugin = {
  name: "embed-version",
  setup(builder) {
    builder.onLoad({ filter: /[\\/]runtime[\\/]version\.ts$/ }, () => ({
      contents: `export const VERSION = ${JSON.stringify(VERSION)};`,
      loader: "js",
    }));
  },
};

/**
 * Loads Node's built-in modules when a module that uses them runs. A static import would evaluate all their exports at
 * start; one of `node:http` loads a complete HTTP client.
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

/** Reduces the package.json files that the AWS SDK imports to the version, the only field that it uses. */
export const versionOnly: Plugin = {
  name: "version-only",
  setup(builder) {
    builder.onLoad({ filter: /[\\/]@aws-sdk[\\/][\w-]+[\\/]package\.json$/ }, async ({ path }) => {
      const { version }: { version?: unknown } = JSON.parse(await readFile(path, "utf8"));
      return { contents: JSON.stringify({ version }), loader: "json" };
    });
  },
};

/** A module that dependencies import, and that a bundle replaces or leaves out. */
export interface Replacement {
  /** The import specifier. */
  readonly module: string;
  /** A file of the folder `replacements`. Without it, loading the module throws an error with its name. */
  readonly by?: string;
}

/** Replaces modules in a bundle. */
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
