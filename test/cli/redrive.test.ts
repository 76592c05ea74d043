import type { ChildProcess } from "node:child_process";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { json } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { FunctionProcess } from "#local/function-process.ts";
import { DeadLetterBench, FLOW } from "#test/support/dead-letters.ts";
import { type RunningProgram, startProgram } from "#test/support/program.ts";
import { startRedriveFunction } from "#test/support/redrive-function.ts";

const MAIN = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));

describe("sluice redrive", () => {
  let bench: DeadLetterBench;
  let children: ChildProcess[] = [];
  beforeEach(async () => {
    bench = await DeadLetterBench.start();
  });
  afterEach(async () => {
    for (const child of children) child.kill("SIGKILL");
    children = [];
    await bench[Symbol.asyncDispose]();
  });

  /** The SDK sends its requests to the host of the queue URL. */
  const throughProxy = (url: string): string => url.replace(bench.queue.endpoint, bench.proxy.endpoint);

  function start(args: readonly string[], environment: Record<string, string> = {}): RunningProgram {
    const { queue } = bench;
    const program = startProgram(MAIN, ["redrive", ...args], {
      ...queue.environment,
      DEAD_LETTER_QUEUE_URL: throughProxy(queue.deadLetterQueueUrl),
      COMPLETIONS_QUEUE_URL: throughProxy(queue.queueUrl),
      ...environment,
    });
    children.push(program.child);
    return program;
  }

  const run = (...args: readonly string[]) => start(args).ended;

  it("replays the selected messages, prints progress and a summary, and exits with 0", async () => {
    await bench.put({ code: "protocol_error" }, { code: "protocol_error" }, { code: "other" });
    const { code, stdout, stderr } = await run("--error-code", "protocol_error", "--flow", FLOW);
    expect(stdout).toBe("complete: 3 seen, 2 replayed, 1 kept, 0 over the limit, 0 failed\n");
    expect(stderr).toContain("replayed of");
    expect(code).toBe(0);
    expect(await bench.visible()).toBe(1);
    expect(await bench.drain()).toHaveLength(2);
  });

  it("counts with --dry-run, and prints one line of JSON with --json", async () => {
    await bench.put({ code: "a" }, { code: "b" }, {});
    const { code, stdout } = await run("--dry-run", "--error-code", "a", "--error-code=none", "--json");
    expect(JSON.parse(stdout)).toEqual({
      seen: 3,
      matching: 2,
      replayed: 0,
      failed: 0,
      kept: 1,
      over_limit: 0,
      dry_run: true,
      method: "receive",
      done: true,
      ended: "complete",
      over_limit_ids: [],
      notes: [],
    });
    expect(stdout.split("\n")).toHaveLength(2);
    expect(code).toBe(0);
    expect(await bench.visible()).toBe(3);
  });

  it("prints the ids of messages over the replay limit", async () => {
    const [id = ""] = await bench.put({ replays: 2 }, { replays: 1 });
    const { code, stdout, stderr } = await run("--all", "--max-replays", "2");
    expect(stdout).toContain("1 replayed, 0 kept, 1 over the limit");
    expect(stderr).toContain(id);
    expect(code).toBe(0);
  });

  it("stops on Ctrl-C after the message in flight, and prints its report", async () => {
    await bench.put(...Array(20).fill({}));
    let sends = 0;
    const running = start(["--all", "--rate", "1", "--json"]);
    bench.proxy.intercept = async (operation) => {
      if (operation === "SendMessageBatch") {
        sends += 1;
        if (sends === 2) running.child.kill("SIGINT");
      }
      return undefined;
    };
    const { code, stdout } = await running.ended;
    expect(JSON.parse(stdout)).toMatchObject({ replayed: 2, seen: 2, ended: "stopped", done: true });
    expect(code).toBe(1);
    expect(await bench.visible()).toBe(18);
    expect(await bench.drain()).toHaveLength(2);
  });

  it("leaves a message in both queues if it is killed between send and delete", async () => {
    await bench.put({});
    const running = start(["--all", "--method", "receive"]);
    bench.proxy.intercept = async (operation) => {
      if (operation !== "DeleteMessageBatch") return undefined;
      running.child.kill("SIGKILL");
      await running.ended;
      return { status: 500, body: {} };
    };
    await running.ended;
    expect(await bench.queue.counts(bench.queue.deadLetterQueueUrl)).toMatchObject({
      visible: 0,
      inFlight: 1,
    });
    expect(await bench.drain()).toHaveLength(1);
  });

  it("exits with 1 and prints the reason if a message could not be sent", async () => {
    await bench.put({});
    bench.proxy.decide = () => ({ kind: "failed_entries", ids: () => true, senderError: true });
    const { code, stdout, stderr } = await run("--all");
    expect(stdout).toContain("1 failed");
    expect(stderr).toContain("was not sent and stays: the queue refused the message: InternalError");
    expect(code).toBe(1);
    expect(await bench.visible()).toBe(1);
  });

  it("exits with 1 if the queue does not exist", async () => {
    const { code, stderr } = await start(["--all", "--from", `${bench.queue.queueUrl}-missing`]).ended;
    expect(stderr).toMatch(/^sluice: QueueError: .*-missing failed/m);
    expect(code).toBe(1);
  });

  it.each([
    [["--all", "--flow", FLOW], "--all cannot be combined with a filter"],
    [[], "no messages selected: specify a filter, or --all"],
    [["--all", "--rate", "fast"], "--rate must be a number from 0.1 to 500"],
    [["--flow", "nightly"], "--flow: expected a flow id"],
    [["--older-than", "yesterday"], "e.g. 15m"],
    [["--older-than", "2h", "--younger-than", "90m"], "--older-than must be less than --younger-than"],
    [["--method", "purge"], "auto, receive, move_task"],
    [["--all", "--max-replays", "0"], "MAX_REPLAYS"],
    [["--all", "--from", "here"], "DEAD_LETTER_QUEUE_URL"],
    [["--all", "--function", "f", "--from", "x"], "--from cannot be combined with --function"],
    [["--everything"], "--everything"],
    [["--all", "stray"], "too many arguments"],
  ])("exits with 2 and an error message for %j", async (args, message) => {
    await bench.put({});
    const { code, stdout, stderr } = await run(...args);
    expect(stderr).toContain(message);
    expect(stdout).toBe("");
    expect(code).toBe(2);
    expect(await bench.visible()).toBe(1);
  });

  it("invokes the deployed function slice by slice", async () => {
    await bench.put(...Array(16).fill({}));
    await using fn = startRedriveFunction(bench, { timeoutMs: 4_000 });
    await using lambda = await fakeLambda(fn);
    const { code, stdout } = await start(["--all", "--rate", "6", "--function", "redrive", "--json"], {
      AWS_ENDPOINT_URL_LAMBDA: lambda.endpoint,
    }).ended;
    expect(JSON.parse(stdout)).toMatchObject({ seen: 16, replayed: 16, done: true, ended: "complete" });
    expect(code).toBe(0);
    expect(lambda.events.length).toBeGreaterThan(1);
    expect(await bench.drain()).toHaveLength(16);
  });

  it("stops the deployed function on Ctrl-C with one more invocation", async () => {
    await bench.put(...Array(12).fill({ code: "a" }), {}, {}, {}, {});
    await using fn = startRedriveFunction(bench, { timeoutMs: 4_000 });
    await using lambda = await fakeLambda(fn);
    const running = start(["--error-code", "none", "--rate", "1", "--function", "redrive", "--json"], {
      AWS_ENDPOINT_URL_LAMBDA: lambda.endpoint,
    });
    lambda.onEvent = () => {
      if (lambda.events.length === 1) running.child.kill("SIGINT");
    };
    const { code, stdout } = await running.ended;
    expect(JSON.parse(stdout)).toMatchObject({ done: true, ended: "stopped" });
    expect(code).toBe(1);
    expect(lambda.events.map(({ stop }) => stop)).toEqual([undefined, true]);
    expect((await bench.visible()) + (await bench.drain()).length).toBe(16);
  });

  it("prints the error of the function", async () => {
    await using fn = startRedriveFunction(bench, { environment: { MAX_REPLAYS: "none" } });
    await using lambda = await fakeLambda(fn);
    const { code, stderr } = await start(["--all", "--function", "redrive"], {
      AWS_ENDPOINT_URL_LAMBDA: lambda.endpoint,
    }).ended;
    expect(stderr).toContain("MAX_REPLAYS");
    expect(code).toBe(1);
  });
});

interface FakeLambda extends AsyncDisposable {
  readonly endpoint: string;
  readonly events: { readonly stop?: unknown }[];
  onEvent: () => void;
}

/** A FAKE of Lambda's Invoke API. It passes each event to the built function in its own process. */
async function fakeLambda(fn: FunctionProcess): Promise<FakeLambda> {
  const server = createServer((request, response) => {
    json(request)
      .then((event) => {
        lambda.events.push(event as { stop?: unknown });
        const answer = fn.invoke(event);
        lambda.onEvent();
        return answer;
      })
      .then(
        (answer) => response.end(JSON.stringify(answer)),
        (error: Error) => {
          response.setHeader("x-amz-function-error", "Unhandled");
          response.end(JSON.stringify({ errorMessage: error.message }));
        },
      );
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const lambda: FakeLambda = {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    events: [],
    onEvent: () => undefined,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return lambda;
}
