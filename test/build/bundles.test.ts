import { mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { LIBRARY_FILES } from "#lua/source.ts";
import {
  PACKAGE_GROUPS,
  REPLACEMENTS,
  unlistedPackages,
  unusedReplacements,
} from "#scripts/build/allowed-packages.ts";
import type { BundleContents } from "#scripts/build/contents.ts";
import { replace } from "#scripts/build/plugins.ts";
import { describeBundles } from "#scripts/build/report.ts";
import { BUNDLING, buildFunctions, bundle } from "#scripts/build.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
/**
 * `keepNames` takes 23 KB of it: without it, stack traces and `errorType` would show minified class names. The Lua library
 * is part of it with all functions, also those that only workers and scanners call: it is loaded as a whole.
 */
const DISPATCH_BYTES = 570_000;
/**
 * The SDK's submission, the operations, and 200 KB of zod without its translations. A person waits for their cold start, which
 * takes longer with each KB.
 */
const OPERATE_BYTES = 1_000_000;

describe("the functions' bundles", () => {
  let folder: string;
  let functions: Map<string, BundleContents>;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "sluice-build-"));
    functions = await buildFunctions(folder);
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  const codeOf = async (name: string): Promise<string[]> =>
    (await readdir(join(folder, name))).filter((file) => file.endsWith(".mjs"));

  it("dispatch has at most 570 KB of code, and the reported sizes are those of the files", async () => {
    const sizes = (await codeOf("dispatch")).map(
      async (file) => (await stat(join(folder, "dispatch", file))).size,
    );
    const bytes = (await Promise.all(sizes)).reduce((total, size) => total + size, 0);
    expect(bytes).toBeLessThanOrEqual(DISPATCH_BYTES);
    const { atStart = 0, late = 0, packages } = functions.get("dispatch") ?? { packages: new Map() };
    expect(atStart + late).toBe(bytes);
    const parts = [...packages.values()].reduce((total, part) => total + part.atStart + part.late, 0);
    expect(parts).toBe(bytes);
  });

  it.each(["operate-read", "operate-write"])("%s has at most 1 MB of code", (name) => {
    const { atStart = 0, late = 0 } = functions.get(name) ?? {};
    expect(atStart + late).toBeGreaterThan(0);
    expect(atStart + late).toBeLessThanOrEqual(OPERATE_BYTES);
  });

  it.each(["dispatch", "reconcile"])("%s contains the AWS SDK and loads it on first use", (name) => {
    const packages = [...(functions.get(name)?.packages ?? [])].filter(([one]) =>
      /^@(aws-sdk|smithy)\//.test(one),
    );
    expect(packages.map(([one]) => one)).toContain("@aws-sdk/client-sqs");
    expect(packages.filter(([, { atStart }]) => atStart > 0)).toEqual([]);
  });

  it("contain only files that another file loads, and load only files that exist", async () => {
    for (const name of functions.keys()) {
      const files = await codeOf(name);
      const texts = await Promise.all(files.map((file) => readFile(join(folder, name, file), "utf8")));
      const named = new Set(texts.flatMap((text) => text.match(/[\w-]+\.mjs(?=["'])/g) ?? []));
      expect([...named.add("index.mjs")].sort(), name).toEqual(files.sort());
      // The call that esbuild generates for a require() whose module it cannot determine.
      expect(texts.join("")).not.toContain("Dynamic require of");
    }
  });

  it("a build removes the files of an earlier one, and reports every package with its reason", async () => {
    const before = await codeOf("dispatch");
    const again = await mkdtemp(join(tmpdir(), "sluice-build-"));
    try {
      const contents = await buildFunctions(again);
      await rm(join(again, "dispatch", "index.mjs"));
      await build({ stdin: { contents: "" }, outfile: join(again, "dispatch", "chunk-OLD.mjs") });
      await buildFunctions(again);
      expect((await readdir(join(again, "dispatch"))).filter((file) => file.endsWith(".mjs"))).toEqual(
        before,
      );
      const report = describeBundles(contents, true);
      for (const name of functions.keys()) expect(report).toContain(name);
      for (const { why } of PACKAGE_GROUPS) expect(report).toContain(why);
      expect(report).toContain("@aws-sdk/client-sqs");
    } finally {
      await rm(again, { recursive: true, force: true });
    }
  });

  it("have source maps that name the source files", async () => {
    const text = await readFile(join(folder, "dispatch", "index.mjs.map"), "utf8");
    const { sources }: { sources: string[] } = JSON.parse(text);
    expect(sources).toContain("../../functions/dispatch/handler.ts");
  });

  it("contain only packages that the build allows, and every allowed package", () => {
    const present = new Set([...functions.values()].flatMap(({ packages }) => [...packages.keys()]));
    expect(PACKAGE_GROUPS.flatMap(({ packages }) => packages).filter((name) => !present.has(name))).toEqual(
      [],
    );
    expect([...functions.values()].flatMap((contents) => unlistedPackages(contents))).toEqual([]);
  });
});

describe("a build with an unexpected content", () => {
  it("reports a package that is not allowed", async () => {
    const { contents } = await bundle(join(ROOT, "cli/main.ts"));
    expect(unlistedPackages(contents)).toContain("commander");
  });

  it("reports a replacement of a module that no bundle imports", async () => {
    const { contents } = await bundle(join(ROOT, "lua/library.ts"));
    expect(unusedReplacements([contents])).toEqual(REPLACEMENTS.map(({ module }) => module));
  });

  it("a module that is left out throws an error with its name when it is loaded", async () => {
    const { outputFiles } = await build({
      ...BUNDLING,
      stdin: { contents: 'export * from "unneeded";' },
      plugins: [replace([{ module: "unneeded" }])],
      sourcemap: false,
      write: false,
    });
    const [{ text = "" } = {}] = outputFiles;
    await expect(import(`data:text/javascript,${encodeURIComponent(text)}`)).rejects.toThrow(
      "unneeded is left out",
    );
  });
});

describe("the names of error classes", () => {
  it("are the same in a bundle as in the sources", async () => {
    const folder = await mkdtemp(join(tmpdir(), "sluice-build-"));
    try {
      const outfile = join(folder, "errors.mjs");
      await build({ ...BUNDLING, entryPoints: [join(ROOT, "shared/errors.ts")], outfile });
      const built: Record<string, unknown> = await import(pathToFileURL(outfile).href);
      const classes = Object.entries(built).flatMap(([exported, value]) =>
        typeof value === "function" && value.prototype instanceof Error ? [[exported, value.name]] : [],
      );
      expect(classes).toContainEqual(["ValkeyError", "ValkeyError"]);
      for (const [exported, name] of classes) expect(name).toBe(exported);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});

describe("the embedded Lua library", () => {
  // Otherwise a built function and a program run from the sources would replace each other's library for ever.
  it("is byte for byte the text that the sources load", async () => {
    const folder = await mkdtemp(join(tmpdir(), "sluice-build-"));
    try {
      const outfile = join(folder, "library.mjs");
      await build({ ...BUNDLING, entryPoints: [join(ROOT, "lua/library.ts")], outfile });
      const built: typeof import("#lua/library.ts") = await import(pathToFileURL(outfile).href);
      const sources = await import("#lua/library.ts");
      for (const edition of [11, 14] as const) {
        expect(built.librarySource(edition)).toBe(sources.librarySource(edition));
      }
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });

  it("keeps every line of every file in place, except for comments and indentation", async () => {
    for (const { path, text } of Object.values(LIBRARY_FILES).flat()) {
      const lines = (await readFile(join(ROOT, path), "utf8")).split("\n");
      expect(text.split("\n"), path).toEqual(
        lines.map((line) => (line.trimStart().startsWith("--") ? "" : line.trimStart())),
      );
    }
  });
});
