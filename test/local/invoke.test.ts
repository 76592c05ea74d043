import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type LocalQueue, startQueue } from "#local/queue.ts";
import { startValkey, type ValkeyServer } from "#local/valkey-server.ts";
import { descendantsOf, isRunning } from "#test/local/processes.ts";
import { startProgram } from "#test/support/program.ts";

const INVOKE = fileURLToPath(new URL("../../local/invoke.ts", import.meta.url));
const EVENTS = fileURLToPath(new URL("../../local/events", import.meta.url));

let server: ValkeyServer;
let queue: LocalQueue;
beforeAll(async () => {
  server = await startValkey();
  queue = await startQueue({ visibilityTimeoutSeconds: 60 });
});
afterAll(async () => {
  await queue.stop();
  await server.stop();
});

function start(args: readonly string[], stdin = "") {
  return startProgram(
    INVOKE,
    args,
    {
      ...queue.environment,
      VALKEY_URL: server.url.href,
      COMPLETIONS_QUEUE_URL: queue.queueUrl,
      DEAD_LETTER_QUEUE_URL: queue.deadLetterQueueUrl,
    },
    stdin,
  );
}

const run = (...args: readonly string[]) => start(args).ended;

describe("the example events", () => {
  test.each([
    ["dispatch", "aws", { batchItemFailures: [{ itemIdentifier: expect.any(String) }] }],
    ["dispatch", "own", { batchItemFailures: [{ itemIdentifier: expect.any(String) }] }],
    ["reconcile", "auto", { state: "complete" }],
    ["redrive", "auto", { seen: 0, dry_run: true, done: true }],
  ])("%s, on the runtime %s", async (name, runtime, answer) => {
    const { code, stdout, stderr } = await run(name, `${EVENTS}/${name}.json`, "--runtime", runtime);
    expect(stdout.trimEnd().split("\n")).toHaveLength(1);
    expect(JSON.parse(stdout)).toMatchObject(answer);
    expect(stderr).toContain(runtime === "own" ? "on the built-in runtime" : "on AWS's runtime client");
    expect(stderr).toContain(`"service":"sluice-${name}"`);
    expect(code).toBe(0);
  });

  test("provision, from standard input: throws, since the response URL of the example does not answer", async () => {
    const event = await readFile(`${EVENTS}/provision.json`, "utf8");
    const { code, stdout, stderr } = await start(["provision", "-", "--timeout", "4"], event).ended;
    expect(stderr).toContain("request succeeded");
    expect(stderr).toMatch(/sluice: the function threw: CustomResourceError/);
    expect(stdout).toBe("");
    expect(code).toBe(1);
  });
});

describe("errors", () => {
  test.each([
    ["an unknown function", ["nothing", "x.json"], /no function "nothing": expected .*dispatch/],
    ["a path instead of a name", ["../dist/dispatch", "x.json"], /no function/],
    [
      "a file that does not exist",
      ["redrive", "/nowhere/event.json"],
      /cannot read the event from \/nowhere\/event\.json/,
    ],
    [
      "a file that is not JSON",
      ["redrive", INVOKE],
      /cannot read the event from .*invoke\.ts: [\s\S]*not valid JSON/,
    ],
    ["no event", ["redrive"], /missing required argument 'event'/],
    ["a timeout above Lambda's maximum", ["redrive", "x.json", "--timeout", "901"], /from 1 to 900/],
  ])("%s: exit status 2", async (_, args, reason) => {
    const { code, stdout, stderr } = await run(...args);
    expect(stderr).toMatch(reason);
    expect(stdout).toBe("");
    expect(code).toBe(2);
  });

  test("an event that the function rejects: exit status 1, and the error in the log", async () => {
    const { code, stdout, stderr } = await start(["redrive", "-"], "{}").ended;
    expect(stderr).toMatch(/sluice: the function threw: InvalidRequestError: no messages selected/);
    expect(stdout).toBe("");
    expect(code).toBe(1);
  });

  test("--help shows an example and the exit statuses", async () => {
    const { code, stdout } = await run("--help");
    expect(stdout).toMatch(/local\/events\/dispatch\.json[\s\S]*Exit status: 0/);
    expect(code).toBe(0);
  });
});

test("SIGTERM during an event ends the function", async () => {
  // The function retries its response, which the URL does not accept, until its deadline.
  const { child, ended, errorOutput } = start(["provision", `${EVENTS}/provision.json`, "--timeout", "60"]);
  await expect.poll(errorOutput, { timeout: 20_000 }).toContain("request succeeded");
  const below = descendantsOf(child.pid ?? 0);
  expect(below.length).toBeGreaterThan(0);
  child.kill("SIGTERM");
  expect((await ended).code).toBe(143);
  expect(below.filter(({ pid }) => isRunning(pid))).toEqual([]);
});
