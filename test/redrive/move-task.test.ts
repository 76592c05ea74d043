import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { DeadLetterBench } from "#test/support/dead-letters.ts";
import { FakeMoveTasks } from "#test/support/fake-move-tasks.ts";

describe("replay by a move task", () => {
  let bench: DeadLetterBench;
  let tasks: FakeMoveTasks;
  beforeEach(async () => {
    bench = await DeadLetterBench.start();
    tasks = new FakeMoveTasks(bench);
  });
  afterEach(() => bench[Symbol.asyncDispose]());

  it("moves the whole queue at the requested rate, and waits until the task ends", async () => {
    await bench.put(...Array(7).fill({}));
    expect(await bench.replay({ all: true, rate: 33 })).toMatchObject({
      method: "move_task",
      replayed: 7,
      done: true,
      ended: "complete",
    });
    expect(tasks.starts).toEqual([
      {
        SourceArn: "arn:aws:sqs:us-east-1:000000000000:completions-dead-letters",
        DestinationArn: "arn:aws:sqs:us-east-1:000000000000:completions",
        MaxNumberOfMessagesPerSecond: 33,
      },
    ]);
    expect(await bench.drain()).toHaveLength(7);
  });

  it.each([
    ["one message is over the replay limit", { replays: 5 }, 1, 1],
    ["one message has error attributes", { code: "protocol_error" }, 0, 0],
  ])("is not used if %s", async (_, letter, overLimit, left) => {
    await bench.put({}, {}, letter);
    expect(await bench.replay({ all: true })).toMatchObject({
      method: "receive",
      seen: 3,
      over_limit: overLimit,
      done: true,
    });
    expect(tasks.starts).toEqual([]);
    expect(await bench.visible()).toBe(left);
    for (const { MessageAttributes } of await bench.drain()) {
      expect(Object.keys(MessageAttributes ?? {})).toEqual(["replays"]);
    }
  });

  it.each([
    ["with a filter", { error_code: "none" }],
    ["in a dry run", { all: true, dry_run: true }],
    ["if the method is receive", { all: true, method: "receive" }],
    ["below one message per second", { all: true, rate: 0.5 }],
  ])("is not used %s", async (_, event) => {
    await bench.put({});
    expect(await bench.replay(event)).toMatchObject({ method: "receive", matching: 1 });
    expect(tasks.starts).toEqual([]);
  });

  it("is used without a survey if the method is move_task", async () => {
    await bench.put({ replays: 9, code: "a" });
    expect(await bench.replay({ all: true, method: "move_task" })).toMatchObject({ replayed: 1 });
    expect(Object.keys((await bench.drain())[0]?.MessageAttributes ?? {})).toContain("error_code");
  });

  it("is cancelled on stop", async () => {
    await bench.put(...Array(9).fill({}));
    const stop = new AbortController();
    bench.clock.onPause = () => stop.abort();
    const report = await bench.replay({ all: true }, { signal: stop.signal });
    expect(report).toMatchObject({ method: "move_task", ended: "stopped", done: true });
    expect(report.replayed).toBeLessThan(9);
    expect(tasks.status).toBe("CANCELLED");
    expect((await bench.visible()) + (await bench.drain()).length).toBe(9);
  });

  it("continues over several slices, and can be cancelled between them", async () => {
    await bench.put(...Array(9).fill({}));
    const limits = () => ({ deadlineMs: bench.clock.now() + 1_500 });
    const first = await bench.replay({ all: true }, limits());
    expect(first).toMatchObject({ done: false, ended: "slice", method: "move_task" });
    const { continuation } = first;
    const second = await bench.replay({ all: true, continuation }, limits());
    expect(second.replayed).toBeGreaterThan(first.replayed);
    expect(tasks.starts).toHaveLength(1);
    expect(await bench.replay({ all: true, continuation, stop: true })).toMatchObject({ ended: "stopped" });
  });

  it("is rejected while another move task is running", async () => {
    await bench.put(...Array(9).fill({}));
    tasks.status = "RUNNING";
    await expect(bench.replay({ all: true })).rejects.toThrow(/already running: wait/);
  });

  it("that fails ends the replay as failed", async () => {
    await bench.put({}, {}, {});
    bench.clock.onPause = () => {
      tasks.status = "FAILED";
    };
    expect(await bench.replay({ all: true })).toMatchObject({ ended: "failed", done: true });
  });

  it("is replaced by receive on an endpoint without move tasks, unless the method is move_task", async () => {
    bench.proxy.intercept = async () => undefined;
    await bench.put({});
    await expect(bench.replay({ all: true, method: "move_task" })).rejects.toThrow(/omit "method"/);
    expect(await bench.replay({ all: true })).toMatchObject({ method: "receive", replayed: 1 });
  });

  it("is replaced by receive if the queue does not support it", async () => {
    const fake = bench.proxy.intercept;
    bench.proxy.intercept = (operation, body) =>
      operation === "StartMessageMoveTask"
        ? Promise.resolve({
            status: 400,
            body: { __type: "com.amazonaws.sqs#UnsupportedOperation", message: "" },
          })
        : fake(operation, body);
    await bench.put({});
    expect(await bench.replay({ all: true })).toMatchObject({ method: "receive", replayed: 1 });
  });

  const HTML = "<!doctype html><title>Internal Server Error</title>";

  it.each(["ListMessageMoveTasks", "StartMessageMoveTask"])(
    "is replaced by receive if the endpoint answers %s with an HTML page",
    async (unknown) => {
      const fake = bench.proxy.intercept;
      bench.proxy.intercept = (operation, body) =>
        operation === unknown ? Promise.resolve({ status: 500, html: HTML }) : fake(operation, body);
      await bench.put({}, {});
      expect(await bench.replay({ all: true })).toMatchObject({ method: "receive", replayed: 2 });
      expect(tasks.starts).toEqual([]);
    },
  );

  it("is not replaced if a gateway answers with an HTML page", async () => {
    bench.proxy.intercept = async (operation) =>
      operation === "ListMessageMoveTasks" ? { status: 503, html: HTML } : undefined;
    await bench.put({});
    await expect(bench.replay({ all: true })).rejects.toThrow("the queue refused the move task");
    expect(await bench.visible()).toBe(1);
  });
});
