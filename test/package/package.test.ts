/** Packs the npm package, installs it into an empty project outside of the repository, and uses it there. */

import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { copyFile, cp, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { findValkeyServer, startValkey } from "#local/valkey-server.ts";
import { examplesOf, PAGES_WITH_EXAMPLES } from "#test/support/doc-examples.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const BIN = join(ROOT, "node_modules/.bin");

const INSTALL_OPTIONS = ["--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund"];

/** The settings of a strict project. They also check the package's declarations. */
const TSCONFIG = {
  compilerOptions: {
    target: "es2024",
    lib: ["es2024", "esnext.disposable"],
    module: "nodenext",
    types: ["node"],
    strict: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    skipLibCheck: false,
    noEmit: true,
  },
};

/** An application that uses each entry against a test stack, and prints what it saw. */
const APPLICATION = `
import { connect, ConfigurationError, parseFlowId, parseLaneId, parseWorkflow, submitFlow, unwrap } from "sluice";
import { createDispatcher } from "sluice/dispatch";
import { startTestStack } from "sluice/testing";
import { promoteDue, workBatch } from "sluice/worker";

await using stack = await startTestStack();
Object.assign(process.env, stack.environment);
using connection = await connect();
const workflow = parseWorkflow('{"name":"one","tasks":[{"id":"only"}]}', "one.json");
if (!workflow.ok) throw new Error(workflow.errors.join());
const flowId = unwrap(parseFlowId("0f8c5f6e-0000-4000-8000-000000000001"));
const flow = await submitFlow(connection, workflow.value, { flowId });
const source = { partition: flow.partition, lane: unwrap(parseLaneId("default")) };
const worker = { ...connection, identity: { workerId: "w", instanceId: "i" } };
const [worked] = await workBatch(worker, source, async () => ({ outcome: "success", result: "" }), { limit: 1 });
await promoteDue(worker, source);

const handler = createDispatcher();
const body = JSON.stringify({ execution_id: worked?.id, flow_id: flowId });
const context = {
  awsRequestId: "r", functionName: "f", functionVersion: "1", invokedFunctionArn: "a", memoryLimitInMB: "1",
  getRemainingTimeInMillis: () => 10_000,
};
const response = await handler({ Records: [{ messageId: "m", body }, { messageId: "bad", body: "{" }] }, context);
let refused: unknown;
try {
  createDispatcher({});
} catch (error) {
  refused = error instanceof ConfigurationError;
}
console.log(JSON.stringify({ status: worked?.status, response, refused }));
process.exit();
`;

/** The tasks of a worker. */
const TASKS = `
import { defineTask } from "sluice/worker";

export const fetchReport = defineTask({ kind: "fetch", lane: "reports", run: () => "a report" });
export const publishReport = defineTask({ kind: "publish", lane: "reports", run: () => null });
`;

let folder: string;
let tarball: string;
let project: string;

const execute = promisify(execFile);

/** Runs a command to its end. Rejects with its whole output if it fails. */
async function run(command: string, args: readonly string[], cwd: string, env: NodeJS.ProcessEnv = {}) {
  try {
    const { stdout } = await execute(command, args, { cwd, env: { ...process.env, ...env } });
    return stdout;
  } catch (error) {
    const { stdout = "", stderr = "" } = error as { stdout?: string; stderr?: string };
    throw new Error(`${command} ${args.join(" ")} failed:\n${stdout}${stderr}`, { cause: error });
  }
}

const node = (args: readonly string[], env?: NodeJS.ProcessEnv) =>
  run(process.execPath, args, project, { VALKEY_SERVER: findValkeyServer(), ...env });

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "sluice-package-"));
  await run("npm", ["pack", "--pack-destination", folder], ROOT);
  const [packed = ""] = (await readdir(folder)).filter((name) => name.endsWith(".tgz"));
  tarball = join(folder, packed);
  project = await mkdtemp(join(folder, "project-"));
  const { devDependencies } = JSON.parse(await readFile(join(ROOT, "package.json"), "utf8"));
  const others = ["@types/node", "fauxqs"].map((name) => `${name}@${devDependencies[name]}`);
  await writeFile(join(project, "package.json"), JSON.stringify({ private: true, type: "module" }));
  await writeFile(join(project, "tsconfig.json"), JSON.stringify(TSCONFIG));
  await run("npm", ["install", ...INSTALL_OPTIONS, tarball, ...others], project);
});

afterAll(() => rm(folder, { recursive: true, force: true }));

test("the tarball contains bundles, declarations, the functions and the schema, and nothing else", async () => {
  const { stdout } = await execute("tar", ["-tzf", tarball]);
  const files = stdout.trim().split("\n");
  const unexpected = files.filter(
    (file) =>
      !/^package\/(?:lib\/[\w-]+\.js|lib\/types\/.+\.d\.ts|dist\/(?:dispatch|reconcile|page)\/.+|schema\/(?:workflow|cli)\.json|[A-Z]+(?:\.md)?|package\.json)$/.test(
        file,
      ),
  );
  expect(unexpected).toEqual([]);
  for (const file of [
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "lib/index.js",
    "dist/dispatch/index.mjs",
    "dist/page/index.html",
    "dist/page/app.js",
    "dist/page/THIRD_PARTY_NOTICES.txt",
    "schema/workflow.json",
  ]) {
    expect(files).toContain(`package/${file}`);
  }
  expect(files.filter((file) => file.endsWith(".map"))).toEqual([]);
});

test("publint finds no error, warning or suggestion", async () => {
  expect(await run(join(BIN, "publint"), [tarball, "--strict"], ROOT)).toContain("All good!");
});

test("attw resolves the types of every entry from ES modules", async () => {
  // It fails if it finds a problem.
  const output = await run(
    join(BIN, "attw"),
    [tarball, "--profile", "esm-only", "--no-color", "--format", "ascii"],
    ROOT,
  );
  for (const entry of ["sluice", "sluice/worker", "sluice/dispatch", "sluice/testing"]) {
    expect(output).toMatch(new RegExp(`"${entry}"\\s+node16 \\(from ESM\\): 🟢 \\(ESM\\)\\s+bundler: 🟢`));
  }
});

test("the examples of the documentation and an application pass a strict type check", async () => {
  for (const [position, page] of PAGES_WITH_EXAMPLES.entries()) {
    await writeFile(join(project, `example-${position}.ts`), examplesOf(page).join("\n"));
  }
  await writeFile(join(project, "application.ts"), APPLICATION);
  expect(await run(join(BIN, "tsc"), ["--project", "."], project)).toBe("");
});

test("the README's example runs a workflow to its end", async () => {
  await writeFile(join(project, "readme.ts"), examplesOf("README.md").join("\n"));
  // Among the log lines of the worker.
  expect(await node(["readme.ts"])).toContain("{ state: 'success', result: { rows: 3 }, reason: '' }\n");
});

test("an application connects, submits, works, and dispatches in a handler of its own", async () => {
  await writeFile(join(project, "application.ts"), APPLICATION);
  const lines = (await node(["application.ts"])).trim().split("\n");
  expect(JSON.parse(lines.at(-1) ?? "")).toEqual({
    status: "completed",
    response: { batchItemFailures: [{ itemIdentifier: "bad" }] },
    refused: true,
  });
});

test("examples/thumbnails installs the package, passes its tests, runs, and builds its Lambda function", async () => {
  const copy = join(folder, "thumbnails");
  const example = join(ROOT, "examples/thumbnails");
  // Without what a run in the checkout has left there.
  const isSource = (path: string) => !/\/(?:node_modules|images|dist|package-lock\.json)$/.test(path);
  await cp(example, copy, { recursive: true, filter: isSource });
  const manifest = JSON.parse(await readFile(join(copy, "package.json"), "utf8"));
  manifest.dependencies.sluice = `file:${tarball}`;
  await writeFile(join(copy, "package.json"), JSON.stringify(manifest));
  const env = {
    VALKEY_SERVER: findValkeyServer(),
    PATH: `${dirname(process.execPath)}${delimiter}${process.env.PATH}`,
  };
  await run("npm", ["install", ...INSTALL_OPTIONS], copy);
  expect(await run("npm", ["test"], copy, { ...env, NO_COLOR: "1" })).toMatch(/Tests +3 passed \(3\)/);
  const output = await run("npm", ["start"], copy, env);
  expect(output).toContain('contact-sheet success {"key":"contact-sheet.png","width":296,"height":152}\n');
  expect((await readFile(join(copy, "images/contact-sheet.png"))).subarray(1, 4).toString()).toBe("PNG");
  await run("npm", ["run", "build"], copy, env);
  const program = `console.log(typeof (await import("./dist/index.mjs")).handler)`;
  const variables = {
    VALKEY_URL: "redis://127.0.0.1:1",
    COMPLETIONS_QUEUE_URL: "http://127.0.0.1:1/0/completions",
    READY_QUEUES: '{"images":"http://127.0.0.1:1/0/images"}',
  };
  const args = ["--input-type=module", "-e", program];
  expect(await run(process.execPath, args, copy, variables)).toBe("function\n");
});

test("the command sluice shows its help, and finds the valkey-server", async () => {
  const sluice = (args: readonly string[]) => run(join(project, "node_modules/.bin/sluice"), args, project);
  expect(await sluice(["--help"])).toContain("dlq");
  const server = findValkeyServer();
  const path = await run(join(project, "node_modules/.bin/sluice"), ["install-valkey"], project, {
    VALKEY_SERVER: server,
  });
  expect(path).toBe(`${server}\n`);
});

test("npx sluice dev serves the page", async () => {
  const child = spawn(process.execPath, ["node_modules/.bin/sluice", "dev", "--port", "0"], {
    cwd: project,
    env: { ...process.env, VALKEY_SERVER: findValkeyServer() },
  });
  const exited = once(child, "exit");
  try {
    let printed = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      printed += text;
    });
    while (!printed.includes("Ctrl-C") && child.exitCode === null) {
      await Promise.race([once(child.stdout, "data"), exited]);
    }
    const { origin } = new URL(/http:\S+/.exec(printed)?.[0] ?? "");
    const index = await (await fetch(origin)).text();
    for (const [, path = ""] of index.matchAll(/(?:src|href)="([^"]+)"/g)) {
      expect((await fetch(new URL(path, origin))).status, path).toBe(200);
    }
    const answer = await fetch(`${origin}/api/operations/flows`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: "{}",
    });
    expect(await answer.json()).toMatchObject({ flows: [] });
  } finally {
    child.kill("SIGINT");
    await exited;
  }
});

test("without a valkey-server or fauxqs, the test stack says what to install", async () => {
  const program = `import { startTestStack } from "sluice/testing"; await startTestStack();`;
  const start = (env: NodeJS.ProcessEnv) => node(["--input-type=module", "-e", program], env);
  await expect(start({ VALKEY_SERVER: "", PATH: "" })).rejects.toThrow(/npx sluice install-valkey/);
  await rm(join(project, "node_modules/fauxqs"), { recursive: true });
  await expect(start({})).rejects.toThrow(/npm install --save-dev fauxqs/);
});

test("every entry can be imported without the packages that only tests need", async () => {
  const program = `
    const entries = ["sluice", "sluice/worker", "sluice/dispatch", "sluice/testing"];
    const exported = await Promise.all(entries.map(async (entry) => Object.keys(await import(entry))));
    console.log(JSON.stringify(exported.map((names) => names.length > 0)));`;
  expect(await node(["--input-type=module", "-e", program])).toBe("[true,true,true,true]\n");
});

test("a worker that is bundled as docs/workers.md says runs without any other file", async () => {
  await using server = await startValkey();
  const page = await readFile(join(ROOT, "docs/workers.md"), "utf8");
  const command = /^ *npx esbuild (?:.*\\\n)*.*$/m.exec(page)?.[0] ?? "";
  const [, worker = ""] = /```ts\n *\/\/ worker\.ts\n([^`]+)```/.exec(page) ?? [];
  await writeFile(join(project, "worker.ts"), worker);
  await writeFile(join(project, "tasks.ts"), TASKS);
  await run("sh", ["-c", command.replace("npx esbuild", join(BIN, "esbuild"))], project);
  const artifact = await mkdtemp(join(folder, "artifact-"));
  await copyFile(join(project, "dist/reports/index.mjs"), join(artifact, "index.mjs"));
  await writeFile(
    join(artifact, "invoke.mjs"),
    `import { handler } from "./index.mjs";
    const context = { getRemainingTimeInMillis: () => 10_000, functionName: "f", awsRequestId: "r" };
    const answer = await handler({ Records: [] }, context);
    process.stdout.write("answer: " + JSON.stringify(answer), () => process.exit());`,
  );
  const output = await run(process.execPath, ["invoke.mjs"], artifact, {
    AWS_REGION: "us-east-1",
    VALKEY_URL: server.url.href,
    COMPLETIONS_QUEUE_URL: "https://sqs.us-east-1.amazonaws.com/123456789012/completions",
    READY_QUEUES: '{"reports":"https://sqs.us-east-1.amazonaws.com/123456789012/ready-reports"}',
  });
  expect(output).toContain('answer: {"batchItemFailures":[]}');
});
