import { mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { LIBRARY_FILES } from "#lua/source.ts";
import type { Contents } from "#scripts/build/contents.ts";
import { PARTS, REPLACEMENTS, unexplained, unused } from "#scripts/build/parts.ts";
import { replace } from "#scripts/build/plugins.ts";
import { describeBundles } from "#scripts/build/report.ts";
import { BUNDLING, buildFunctions, bundle } from "#scripts/build.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const DISPATCH_BYTES = 450_000;

describe("the functions' bundles", () => {
  let folder: string;
  let functions: Map<string, Contents>;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "sluice-build-"));
    functions = await buildFunctions(folder);
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  const codeOf = async (name: string): Promise<string[]> =>
    (await readdir(join(folder, name))).filter((file) => file.endsWith(".mjs"));

  it("all of dispatch's code is at most 450 KB, and what is told of it is what is there", async () => {
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

  it.each(["dispatch", "reconcile"])("%s starts without the AWS SDK, and has it", (name) => {
    const packages = [...(functions.get(name)?.packages ?? [])].filter(([one]) =>
      /^@(aws-sdk|smithy)\//.test(one),
    );
    expect(packages.map(([one]) => one)).toContain("@aws-sdk/client-sqs");
    expect(packages.filter(([, { atStart }]) => atStart > 0)).toEqual([]);
  });

  it("contain no file that no other file loads, and ask for nothing that is not there", async () => {
    for (const name of functions.keys()) {
      const files = await codeOf(name);
      const texts = await Promise.all(files.map((file) => readFile(join(folder, name, file), "utf8")));
      const named = new Set(texts.flatMap((text) => text.match(/[\w-]+\.mjs(?=["'])/g) ?? []));
      expect([...named.add("index.mjs")].sort(), name).toEqual(files.sort());
      // What esbuild leaves in the place of a require() of which it cannot tell the module.
      expect(texts.join("")).not.toContain("Dynamic require of");
    }
  });

  it("a build removes what an earlier one left, and tells what is in each and why", async () => {
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
      const told = describeBundles(contents, true);
      for (const name of functions.keys()) expect(told).toContain(name);
      for (const { why } of PARTS) expect(told).toContain(why);
      expect(told).toContain("@aws-sdk/client-sqs");
    } finally {
      await rm(again, { recursive: true, force: true });
    }
  });

  it("have source maps that lead to the sources", async () => {
    const text = await readFile(join(folder, "dispatch", "index.mjs.map"), "utf8");
    const { sources }: { sources: string[] } = JSON.parse(text);
    expect(sources).toContain("../../functions/dispatch/handler.ts");
  });

  it("have a reason for every package, and every reason has its package", () => {
    const present = new Set([...functions.values()].flatMap(({ packages }) => [...packages.keys()]));
    expect(PARTS.flatMap(({ packages }) => packages).filter((name) => !present.has(name))).toEqual([]);
    expect([...functions.values()].flatMap((contents) => unexplained(contents))).toEqual([]);
  });
});

describe("a build that must fail", () => {
  it("names a package that nobody gave a reason for", async () => {
    const { contents } = await bundle(join(ROOT, "cli/main.ts"));
    expect(unexplained(contents)).toContain("commander");
  });

  it("names a replacement that replaces nothing", async () => {
    const { contents } = await bundle(join(ROOT, "lua/library.ts"));
    expect(unused([contents])).toEqual(REPLACEMENTS.map(({ module }) => module));
  });

  it("what is left out says so to whoever loads it", async () => {
    const { outputFiles } = await build({
      ...BUNDLING,
      stdin: { contents: 'export * from "left-alone";' },
      plugins: [replace([{ module: "left-alone" }])],
      sourcemap: false,
      write: false,
    });
    const [{ text = "" } = {}] = outputFiles;
    await expect(import(`data:text/javascript,${encodeURIComponent(text)}`)).rejects.toThrow(
      "left-alone is left out",
    );
  });
});

describe("the embedded Lua library", () => {
  it("is the text that the sources load, to the letter: each would replace the other for ever", async () => {
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

  it("has every line of every file at its place, but for comments", async () => {
    for (const { path, text } of Object.values(LIBRARY_FILES).flat()) {
      const lines = (await readFile(join(ROOT, path), "utf8")).split("\n");
      expect(text.split("\n"), path).toEqual(
        lines.map((line) => (line.trimStart().startsWith("--") ? "" : line)),
      );
    }
  });
});
