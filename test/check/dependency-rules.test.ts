import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { checkDependencies, RULES } from "#scripts/dependency-rules.ts";

const ALIASES = [
  "api",
  "bench",
  "cli",
  "functions",
  "local",
  "lua",
  "operate",
  "page",
  "relay",
  "scripts",
  "sdk",
  "shared",
  "test",
  "deploy",
];

/** Before a module that is imported as a whole, and not only for its types. */
const CODE = "code:";

/** Creates a project of files, each of which imports the given modules. */
async function projectOf(files: Readonly<Record<string, readonly string[]>>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "sluice-rules-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  const imports = Object.fromEntries(ALIASES.map((name) => [`#${name}/*`, `./${name}/*`]));
  await writeFile(join(folder, "package.json"), JSON.stringify({ type: "module", imports }));
  await writeFile(
    join(folder, "tsconfig.json"),
    JSON.stringify({
      compilerOptions: { module: "nodenext", allowImportingTsExtensions: true, noEmit: true },
    }),
  );
  for (const [file, imported] of Object.entries(files)) {
    await mkdir(dirname(join(folder, file)), { recursive: true });
    const lines = imported.map((path, at) =>
      path.startsWith(CODE)
        ? `import "${path.slice(CODE.length)}";`
        : `import type { T as T${at} } from "${path}";`,
    );
    await writeFile(join(folder, file), `${lines.join("\n")}\nexport type T = string;\n`);
  }
  return folder;
}

/** One violation of every rule: the importing file and the imported module. */
const VIOLATIONS: Readonly<Record<string, readonly [file: string, imported: string]>> = {
  "layers-shared-contract": ["shared/contract/bad.ts", "#shared/runtime/good.ts"],
  "layers-lua": ["lua/bad.ts", "#shared/runtime/good.ts"],
  "layers-shared-runtime": ["shared/runtime/bad.ts", "#shared/valkey/good.ts"],
  "layers-shared-valkey": ["shared/valkey/bad.ts", "#shared/queue/good.ts"],
  "layers-shared-queue": ["shared/queue/bad.ts", "#shared/valkey/good.ts"],
  "layers-shared-cancellation": ["shared/cancellation/bad.ts", "#shared/dispatch/good.ts"],
  "layers-shared-consistency": ["shared/consistency/bad.ts", "#shared/dispatch/good.ts"],
  "layers-shared-ready": ["shared/ready/bad.ts", "#shared/dispatch/good.ts"],
  "layers-shared-dispatch": ["shared/dispatch/bad.ts", "#shared/reconcile/good.ts"],
  "layers-shared-reconcile": ["shared/reconcile/bad.ts", "#shared/redrive/good.ts"],
  "layers-shared-redrive": ["shared/redrive/bad.ts", "#shared/dispatch/good.ts"],
  "layers-functions": ["functions/one/bad.ts", "#local/good.ts"],
  "layers-sdk": ["sdk/bad.ts", "#functions/one/good.ts"],
  "layers-operate": ["operate/bad.ts", "#functions/one/good.ts"],
  "layers-cli": ["cli/bad.ts", "#bench/good.ts"],
  "layers-relay": ["relay/bad.ts", "#local/good.ts"],
  "layers-local": ["local/bad.ts", "#cli/good.ts"],
  "layers-page": ["page/bad.ts", "#local/good.ts"],
  "page-imports-only-types": ["page/code.ts", `${CODE}#operate/good.ts`],
  "layers-bench": ["bench/bad.ts", "#test/dispatch/good.ts"],
  "layers-api": ["api/bad.ts", "#bench/good.ts"],
  "layers-scripts": ["scripts/bad.ts", "#sdk/good.ts"],
  "layers-deploy": ["deploy/bad.ts", "#functions/one/good.ts"],
  "layers-.ci": [".ci/bad.ts", "#local/good.ts"],
  "functions-stay-apart": ["functions/two/bad.ts", "#functions/one/good.ts"],
  "functions-without-operations": ["functions/one/big.ts", "#operate/good.ts"],
  "sdk-parts-stay-apart": ["sdk/worker/bad.ts", "#sdk/submission/good.ts"],
  "sdk-kit-builds-on-worker": ["sdk/kit/bad.ts", "#sdk/submission/good.ts"],
  "no-circles": ["shared/contract/one.ts", "#shared/contract/two.ts"],
  "no-unresolved-imports": ["shared/contract/lost.ts", "#shared/contract/nowhere.ts"],
};

const GOOD = {
  "shared/contract/good.ts": [],
  "shared/runtime/good.ts": ["#shared/contract/good.ts"],
  "shared/valkey/good.ts": ["#shared/runtime/good.ts", "#lua/good.ts"],
  "lua/good.ts": ["#shared/contract/good.ts"],
  "shared/queue/good.ts": ["#shared/runtime/good.ts"],
  "shared/cancellation/good.ts": ["#shared/valkey/good.ts", "#shared/queue/good.ts"],
  "shared/consistency/good.ts": ["#shared/valkey/good.ts"],
  "shared/dispatch/good.ts": [
    "#shared/cancellation/good.ts",
    "#shared/ready/good.ts",
    "#shared/queue/good.ts",
  ],
  "shared/ready/good.ts": ["#shared/valkey/good.ts", "#shared/queue/good.ts"],
  "shared/reconcile/good.ts": ["#shared/valkey/good.ts"],
  "shared/redrive/good.ts": ["#shared/queue/good.ts"],
  "functions/one/good.ts": ["#shared/dispatch/good.ts"],
  "sdk/good.ts": ["#shared/dispatch/good.ts", "#shared/consistency/good.ts"],
  "sdk/submission/good.ts": ["#sdk/good.ts"],
  "sdk/worker/good.ts": ["#sdk/good.ts"],
  "sdk/kit/good.ts": ["#sdk/worker/good.ts"],
  "operate/good.ts": ["#sdk/good.ts"],
  "functions/operate-read/good.ts": ["#operate/good.ts", "#sdk/good.ts"],
  "cli/good.ts": ["#operate/good.ts", "#local/good.ts", "#scripts/good.ts"],
  "page/good.ts": ["#operate/good.ts"],
  "local/good.ts": ["#operate/good.ts", "#functions/one/good.ts", "#scripts/good.ts"],
  "scripts/good.ts": ["#shared/redrive/good.ts", "#deploy/good.ts"],
  "deploy/good.ts": ["#shared/contract/good.ts"],
  "test/support/good.ts": ["#local/good.ts", "#cli/good.ts"],
  "test/dispatch/good.ts": ["#test/support/good.ts"],
  "api/good.ts": ["#sdk/good.ts", "#functions/one/good.ts", "#local/good.ts"],
  "bench/good.ts": ["#local/good.ts", "#test/support/good.ts", "#scripts/good.ts"],
};

describe("the dependency rules", () => {
  it("accept imports that point down, by every pair of layers that the rules allow", async () => {
    const files = Object.keys(GOOD);
    const report = await checkDependencies(await projectOf(GOOD), files);
    expect(report).toEqual({ violations: [], unread: [], filesRead: files.length });
  });

  it("report one planted violation of each rule, type-only imports included", async () => {
    const planted: Record<string, readonly string[]> = { ...GOOD };
    for (const [file, imported] of Object.values(VIOLATIONS)) planted[file] = [imported];
    planted["shared/contract/two.ts"] = ["#shared/contract/one.ts"];
    const { violations, unread } = await checkDependencies(await projectOf(planted), Object.keys(planted));
    expect(unread).toEqual([]);
    for (const [rule, [file]] of Object.entries(VIOLATIONS)) {
      expect(
        violations.filter((one) => one.rule === rule && one.text.includes(file)).length,
        `${rule}: ${file}`,
      ).toBeGreaterThan(0);
    }
    // Nothing may import tests, and no room lies above them: `layers-test` cannot be broken.
    const unbreakable = ["layers-test"];
    expect(new Set(violations.map(({ rule }) => rule))).toEqual(
      new Set(RULES.map(({ name }) => name).filter((name) => !unbreakable.includes(name ?? ""))),
    );
  });

  it("report a source file that was not read, and one in no room", async () => {
    const files = { ...GOOD, "elsewhere/stray.ts": [], "dist/left-out.ts": [] };
    const { unread } = await checkDependencies(await projectOf(files), Object.keys(files));
    expect(unread).toEqual(["elsewhere/stray.ts", "dist/left-out.ts"]);
  });

  it("count nothing as read when the parser finds no import at all, as with an unsupported TypeScript", async () => {
    const files = ["shared/contract/good.ts", "lua/good.ts"];
    const { unread, filesRead } = await checkDependencies(
      await projectOf(Object.fromEntries(files.map((file) => [file, []]))),
      files,
    );
    expect({ unread, filesRead }).toEqual({ unread: files, filesRead: 0 });
  });
});
