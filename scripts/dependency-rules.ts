/**
 * `node scripts/dependency-rules.ts`: checks which folder imports which. Part of `npm run check`.
 *
 * Imports point one way: each room may import itself and the rooms of the layers below it, type-only imports included.
 * docs/architecture.md draws the layers. Exit status: 0 when every rule holds, 1 when one is broken or when a source
 * file was not read.
 */

import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { cruise, type ICruiseResult, type IForbiddenRuleType } from "dependency-cruiser";
import extractTSConfig from "dependency-cruiser/config-utl/extract-ts-config";

/** One folder (or file) whose imports are restricted; `path` is a regular expression over paths below the project. */
interface Room {
  readonly name: string;
  readonly path: string;
}

const room = (name: string, path = `^${name}/`): Room => ({ name, path });

/** From the bottom up. A room may import itself and any lower layer, but no other room of its layer. */
const LAYERS: readonly (readonly Room[])[] = [
  [room("shared/contract", "^shared/(contract/|errors\\.ts$)")],
  [room("lua"), room("shared/runtime")],
  [room("shared/valkey"), room("shared/queue")],
  [room("shared/cancellation"), room("shared/ready")],
  [room("shared/consistency"), room("shared/dispatch"), room("shared/reconcile"), room("shared/redrive")],
  [room("sdk")],
  [room("operate")],
  [room("functions")],
  [room("relay"), room("local"), room("page")],
  [room("cli")],
  [room("bench"), room("api")],
  [room("test")],
];

/** Tools: they may import anything below `sdk`, and each other. Programs, `bench` and `test` may import them. */
const TOOLS: readonly Room[] = [room("scripts"), room("deploy"), room(".ci", "^\\.ci/")];
const TOOLS_REACH = 5;
const TOOL_USERS: ReadonlySet<string> = new Set(["cli", "local", "bench", "test"]);
/** What `bench` may import of `test`: servers and counters, not tests. */
const FIXTURES = "^test/support/";

const SOURCES = "\\.(?:tsx?|mjs|js)$";
const EVERYTHING = [...LAYERS.flat(), ...TOOLS];

/** Every rule by name, each with a comment that says what to do. */
export const RULES: readonly IForbiddenRuleType[] = [
  ...LAYERS.flatMap((layer, height) =>
    layer.map((one) =>
      mayImport(one, [
        ...LAYERS.slice(0, height).flat(),
        ...(TOOL_USERS.has(one.name) ? TOOLS : []),
        ...(one.name === "bench" ? [room("fixtures", FIXTURES)] : []),
      ]),
    ),
  ),
  ...TOOLS.map((one) => mayImport(one, [...LAYERS.slice(0, TOOLS_REACH).flat(), ...TOOLS])),
  {
    name: "functions-stay-apart",
    comment: "A Lambda function imports no other one: move what both need to shared/.",
    severity: "error",
    from: { path: "^functions/([^/]+)/" },
    to: { path: "^functions/", pathNot: "^functions/$1/" },
  },
  {
    name: "functions-without-operations",
    comment:
      "Only the functions of operators import operate/ and sdk/: the others stay small and start fast.",
    severity: "error",
    from: { path: "^functions/(?!operate-)" },
    to: { path: "^(?:operate|sdk)/" },
  },
  {
    name: "sdk-parts-stay-apart",
    comment: "The folders of sdk/ do not import each other: move what both need to a file of sdk/.",
    severity: "error",
    from: { path: "^sdk/([^/]+)/", pathNot: "^sdk/kit/" },
    to: { path: "^sdk/[^/]+/", pathNot: "^sdk/$1/" },
  },
  {
    name: "sdk-kit-builds-on-worker",
    comment:
      "Of the other folders of sdk/, sdk/kit imports only sdk/worker: move what both need to a file of sdk/.",
    severity: "error",
    from: { path: "^sdk/kit/" },
    to: { path: "^sdk/[^/]+/", pathNot: "^sdk/(?:kit|worker)/" },
  },
  {
    name: "page-imports-only-types",
    comment:
      "The page runs in a browser: of the other folders it may import types, and code only of operate/graph and words.ts.",
    severity: "error",
    from: { path: "^page/" },
    to: {
      path: EVERYTHING.map((one) => one.path),
      pathNot: "^(?:page/|operate/graph/|operate/words\\.ts$)",
      dependencyTypesNot: ["type-only"],
    },
  },
  {
    name: "no-circles",
    comment: "Modules that import each other cannot be read one at a time: move what both need to a third.",
    severity: "error",
    from: {},
    to: { circular: true },
  },
  {
    name: "no-unresolved-imports",
    comment: "The import cannot be resolved, so its rules cannot be checked.",
    severity: "error",
    from: {},
    to: { couldNotResolve: true },
  },
];

function mayImport({ name, path }: Room, lower: readonly Room[]): IForbiddenRuleType {
  return {
    name: `layers-${name.replace("/", "-")}`,
    comment: `${name} may import itself and: ${lower.map((one) => one.name).join(", ") || "nothing else"}.`,
    severity: "error",
    from: { path },
    to: {
      path: EVERYTHING.map((one) => one.path),
      pathNot: [path, ...lower.map((one) => one.path)],
    },
  };
}

/** What was read and which rules are broken. */
export interface DependencyReport {
  /** One line each: rule, importing file, imported file, what to do. */
  readonly violations: readonly { readonly rule: string; readonly text: string }[];
  /** Source files whose imports were not read, or that belong to no room. Must be empty. */
  readonly unread: readonly string[];
  readonly filesRead: number;
}

/**
 * Reads the imports of `files` (paths below `folder`, which holds a package.json with the `imports` map and a
 * tsconfig.json) and checks them against the rules.
 *
 * A file counts as read only when the parser reports it as a source with dependencies resolved: with a TypeScript
 * version that dependency-cruiser does not support, it reads no file and reports success.
 */
export async function checkDependencies(folder: string, files: readonly string[]): Promise<DependencyReport> {
  const { output } = await cruise(
    [...files],
    {
      baseDir: folder,
      validate: true,
      ruleSet: { forbidden: [...RULES] },
      tsPreCompilationDeps: true,
      doNotFollow: { path: "node_modules" },
      exclude: { path: "^(?:dist|coverage)/" },
    },
    { exportsFields: ["exports"], conditionNames: ["node", "import", "default"] },
    { tsConfig: extractTSConfig(join(folder, "tsconfig.json")) },
  );
  if (typeof output === "string")
    throw new TypeError("dependency-cruiser reported text in place of a result");
  return reportOf(output, files);
}

function reportOf({ modules, summary }: ICruiseResult, files: readonly string[]): DependencyReport {
  const read = new Set(modules.filter(({ followable }) => followable !== false).map(({ source }) => source));
  const hasImports = modules.some(
    ({ source, dependencies }) => /\.ts$/.test(source) && dependencies.length > 0,
  );
  const unread = files.filter((file) => !hasImports || !read.has(file) || !isInRoom(file));
  return {
    violations: summary.violations.map(({ rule, from, to, cycle }) => ({
      rule: rule.name,
      text:
        `${rule.name}: ${from} → ${cycle === undefined ? to : cycle.map((step) => step.name).join(" → ")}\n` +
        `  ${RULES.find((one) => one.name === rule.name)?.comment ?? ""}`,
    })),
    unread,
    filesRead: files.length - unread.length,
  };
}

function isInRoom(file: string): boolean {
  return !file.includes("/") || EVERYTHING.some(({ path }) => new RegExp(path).test(file));
}

/** Every source file that git tracks or would track, except for the examples: projects that import the package. */
export function sourceFiles(folder: string): string[] {
  const listed = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard", "-z"], {
    cwd: folder,
    encoding: "utf8",
    maxBuffer: 64 * 1_048_576,
  });
  const deleted = new Set(
    execFileSync("git", ["ls-files", "--deleted", "-z"], { cwd: folder, encoding: "utf8" }).split("\0"),
  );
  return listed
    .split("\0")
    .filter((file) => new RegExp(SOURCES).test(file) && !file.startsWith("examples/") && !deleted.has(file));
}

async function main(): Promise<number> {
  const folder = fileURLToPath(new URL("..", import.meta.url));
  const { violations, unread, filesRead } = await checkDependencies(folder, sourceFiles(folder));
  for (const { text } of violations) console.error(text);
  for (const file of unread) console.error(`not read, or in no folder that the rules name: ${file}`);
  console.log(`dependency rules: ${filesRead} files read, ${violations.length} violations`);
  return violations.length === 0 && unread.length === 0 ? 0 : 1;
}

if (import.meta.main) process.exitCode = await main();
