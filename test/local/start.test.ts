import type { ChildProcess } from "node:child_process";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { ListQueuesCommand, SQSClient } from "@aws-sdk/client-sqs";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { startFauxqs } from "#local/queue-server.ts";
import { findValkeyServer } from "#local/valkey-server.ts";
import { descendantsOf, isRunning, type Process } from "#test/local/processes.ts";
import { type RunningProgram, startProgram } from "#test/support/program.ts";

const START = fileURLToPath(new URL("../../local/start.ts", import.meta.url));
const TIMEOUT = 60_000;

/** TMPDIR of the program under test: a file that remains in it was not cleaned up. */
let temporary: string;
let folder: string;
const children = new Set<ChildProcess>();
beforeEach(async () => {
  temporary = await mkdtemp(join(tmpdir(), "sluice-start-test-"));
  folder = await mkdtemp(join(tmpdir(), "sluice-start-files-"));
});
afterEach(async () => {
  // A test that failed half-way leaves its program running.
  for (const child of children) child.kill("SIGKILL");
  children.clear();
  await rm(temporary, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  await rm(folder, { recursive: true, force: true });
});

function start(args: readonly string[], environment: Record<string, string> = {}): RunningProgram {
  const program = startProgram(START, args, {
    VALKEY_SERVER: findValkeyServer(),
    TMPDIR: temporary,
    ...environment,
  });
  children.add(program.child);
  return program;
}

/** The descendants of the program, once both the server and the function, which starts on the first message, run. */
async function startedProcesses(child: ChildProcess): Promise<Process[]> {
  return vi.waitFor(
    () => {
      const processes = descendantsOf(child.pid ?? 0);
      for (const part of ["valkey-server", "function-runtime"]) {
        expect(processes.map(({ command }) => command).join("\n")).toContain(part);
      }
      return processes;
    },
    { timeout: 30_000 },
  );
}

async function writeWorkflow(name: string, tasks: readonly object[]): Promise<string> {
  const path = join(folder, `${name}.json`);
  await writeFile(path, JSON.stringify({ name, tasks }));
  return path;
}

function chain(length: number): object[] {
  return Array.from({ length }, (_, index) => ({
    id: `t${index}`,
    ...(index === 0 ? {} : { dependsOn: [`t${index - 1}`] }),
  }));
}

function summaryIn(stdout: string): unknown {
  return JSON.parse(stdout.trimEnd().split("\n").at(-1) ?? "");
}

describe("a complete run", () => {
  test(
    "shows every task of the example, with the failure that caused a skip, in plain lines, and cleans up",
    async () => {
      const { code, stdout, stderr } = await start([]).ended;
      const [header, tree, counts] = stdout.slice(stdout.indexOf("nightly-report")).split("\n\n");
      expect(header).toMatch(/^nightly-report: 12 tasks, 12 edges, flow [0-9a-f-]{36}$/);
      expect(tree).toBe(`\
✓ fetch-orders                  completed
└─ ✓ clean-orders               completed
✓ fetch-stock                   completed
└─ ✓ clean-stock                completed
   └─ ✓ join-sales              completed (also depends on clean-orders)
      ├─ - forecast             skipped because fetch-weather failed (also depends on clean-weather)
      │  └─ - plan-deliveries   skipped because fetch-weather failed
      │     └─ - write-outlook  skipped because fetch-weather failed (also depends on chart-sales)
      └─ ✓ chart-sales          completed
         └─ ✓ write-report      completed
✗ fetch-weather                 failed
└─ - clean-weather              skipped because fetch-weather failed`);
      expect(counts).toMatch(
        /^7 succeeded, 1 failed, 4 skipped, 0 unfinished\n4 messages, cascade depth 4, \d+\.\d s\n$/,
      );
      expect(stdout).not.toContain("\r");
      expect(stdout).not.toContain("\u001b");
      expect(stderr).toBe("");
      expect(code).toBe(0);
      expect(await readdir(temporary)).toEqual([]);
    },
    TIMEOUT,
  );

  test(
    "--json prints the summary, and nothing else, to standard output",
    async () => {
      const path = await writeWorkflow("diamond", [
        { id: "top", lane: "gpu" },
        { id: "left", dependsOn: ["top"] },
        { id: "right", dependsOn: ["top"] },
        { id: "bottom", dependsOn: ["left", "right"] },
        { id: "after left", dependsOn: ["left"] },
      ]);
      const { code, stdout } = await start([
        "--workflow",
        path,
        "--fail",
        "right",
        "--dispatch",
        "queue",
        "--json",
      ]).ended;
      expect(stdout.trimEnd().split("\n")).toHaveLength(1);
      expect(summaryIn(stdout)).toEqual({
        flow_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
        tasks: 5,
        edges: 5,
        success: 3,
        failed: 1,
        skipped: 1,
        unfinished: 0,
        messages: 5,
        max_depth: 1,
        seconds: expect.any(Number),
      });
      expect(code).toBe(0);
    },
    TIMEOUT,
  );

  test(
    "the example with settings runs: the delay passes, and one of two answers suffices",
    async () => {
      const example = fileURLToPath(new URL("../../examples/settings.json", import.meta.url));
      const { code, stdout } = await start(["--workflow", example, "--fail", "ask-north", "--json"]).ended;
      expect(summaryIn(stdout)).toMatchObject({ tasks: 5, success: 4, failed: 1, skipped: 0, unfinished: 0 });
      expect(code).toBe(0);
    },
    TIMEOUT,
  );

  test(
    "a task with retries fails only after its last retry",
    async () => {
      const retry = { maxRetries: 2, backoff: { type: "fixed", delayMs: 50 } };
      const path = await writeWorkflow("retries", [
        { id: "a", retry },
        { id: "b", dependsOn: ["a"] },
      ]);
      const { stdout } = await start(["--workflow", path, "--fail", "a", "--json"]).ended;
      expect(summaryIn(stdout)).toMatchObject({ failed: 1, skipped: 1, unfinished: 0, messages: 1 });
    },
    TIMEOUT,
  );

  test(
    "dispatch restarts a cascade at MAX_CASCADE_DEPTH, as often as needed",
    async () => {
      const path = await writeWorkflow("deep", chain(9));
      const { code, stdout } = await start(["--workflow", path, "--fail", "t0", "--json"], {
        MAX_CASCADE_DEPTH: "2",
      }).ended;
      // Depths 0 to 2 are dispatched, so the tasks at depths 1 to 3 are skipped. Then those at depth 3 restart at depth 0.
      expect(summaryIn(stdout)).toMatchObject({ failed: 1, skipped: 8, unfinished: 0, max_depth: 3 });
      expect(code).toBe(0);
    },
    TIMEOUT,
  );
});

describe("another queue server", () => {
  test(
    "another emulator, with AWS's runtime client",
    async () => {
      const { code, stdout } = await start([
        "--sqs",
        "local-aws-sqs",
        "--runtime",
        "aws",
        "--dispatch",
        "queue",
      ]).ended;
      expect(stdout).toMatch(/^queue: local-aws-sqs, http:\/\/127\.0\.0\.1:\d+$/m);
      expect(stdout).toContain("7 succeeded, 1 failed, 4 skipped, 0 unfinished");
      expect(code).toBe(0);
      expect(await readdir(temporary)).toEqual([]);
    },
    TIMEOUT,
  );

  test(
    "a server that already runs: no queue remains in it",
    async () => {
      await using server = await startFauxqs();
      const { code, stdout, stderr } = await start(["--sqs", "auto", "--json"], {
        AWS_ENDPOINT_URL: server.endpoint,
      }).ended;
      expect(summaryIn(stdout)).toMatchObject({ success: 7, failed: 1, skipped: 4, unfinished: 0 });
      expect(stderr).toContain(`queue: existing SQS endpoint, ${server.endpoint}`);
      expect(code).toBe(0);
      const client = new SQSClient({
        endpoint: server.endpoint,
        region: "us-east-1",
        credentials: { accessKeyId: "local", secretAccessKey: "local" },
      });
      expect((await client.send(new ListQueuesCommand({}))).QueueUrls ?? []).toEqual([]);
      client.destroy();
    },
    TIMEOUT,
  );

  test("a server that does not answer: exit status 2 and its URL", async () => {
    const { code, stderr } = await start(["--sqs", "http://127.0.0.1:1"]).ended;
    expect(stderr).toMatch(/cannot create the queues at http:\/\/127\.0\.0\.1:1: .*ECONNREFUSED/);
    expect(code).toBe(2);
    expect(await readdir(temporary)).toEqual([]);
  });
});

describe("invalid input ends with exit status 2 before anything starts", () => {
  test.each([
    ["a file that does not exist", ["--workflow", "/nowhere/flow.json"], /\/nowhere\/flow\.json/],
    ["an unknown option", ["--wrokflow", "x"], /--wrokflow/],
    ["an unknown task", ["--fail", "no such task"], /--fail no such task: .*fetch-orders/],
  ])("%s", async (_, args, reason) => {
    const { code, stdout, stderr } = await start(args).ended;
    expect(code).toBe(2);
    expect(stderr).toMatch(reason);
    expect(stdout).toBe("");
  });

  test("an invalid workflow", async () => {
    const path = await writeWorkflow("invalid", [{ id: "a", dependsOn: ["b"] }, { id: "a" }]);
    const { code, stderr } = await start(["--workflow", path]).ended;
    expect(code).toBe(2);
    expect(stderr).toContain(path);
    expect(stderr).toContain('"b"');
  });

  test("a setting that is not a number", async () => {
    const { code, stderr } = await start([], { MAX_CASCADE_DEPTH: "many" }).ended;
    expect(code).toBe(2);
    expect(stderr).toContain("MAX_CASCADE_DEPTH");
  });
});

describe("a run that is stopped leaves no process and no file", () => {
  test.each([
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const)(
    "%s",
    async (signal, status) => {
      const path = await writeWorkflow("long", chain(2_000));
      const { child, ended } = start(["--workflow", path, "--dispatch", "queue"]);
      const processes = await startedProcesses(child);
      expect(await readdir(temporary)).not.toEqual([]);
      child.kill(signal);
      expect((await ended).code).toBe(status);
      expect(processes.filter(({ pid }) => isRunning(pid))).toEqual([]);
      expect(await readdir(temporary)).toEqual([]);
    },
    TIMEOUT,
  );

  test(
    "SIGKILL: the processes that it started end as well",
    async () => {
      const path = await writeWorkflow("long", chain(2_000));
      const { child } = start(["--workflow", path, "--dispatch", "queue"]);
      const processes = await startedProcesses(child);
      child.kill("SIGKILL");
      await vi.waitFor(() => expect(processes.filter(({ pid }) => isRunning(pid))).toEqual([]), {
        timeout: 15_000,
      });
    },
    TIMEOUT,
  );
});
