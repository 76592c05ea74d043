/** What a task can use, and what becomes of its result. */

import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { defineTask, type InputSchema, type TaskContext, type TaskDefinition } from "#sdk/kit/define-task.ts";
import { MAX_RESULT_BYTES, NonRetryableError } from "#sdk/kit/run-task.ts";
import { replayExecution } from "#shared/contract/graph.ts";
import { ROUTER } from "#test/kit/kit-bed.ts";
import { LANE, LambdaBed } from "#test/kit/lambda-bed.ts";

const TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const ONE = { name: "one", tasks: [{ id: "a", payload: { key: 1 } }] };
const RETRIED = { attempts: 3, backoff: "2s" };
/** As Zod, Valibot and ArkType implement Standard Schema. */
const KEY_IS_TEXT: InputSchema<{ key: string }> = {
  "~standard": {
    version: 1,
    vendor: "test",
    validate: (value) =>
      typeof (value as { key?: unknown } | undefined)?.key === "string"
        ? { value: value as { key: string } }
        : { issues: [{ message: "expected a string", path: ["key"] }] },
  },
};

let bed: LambdaBed;
beforeAll(async () => {
  bed = await LambdaBed.start(["default"]);
});
afterEach(() => bed.reset());
afterAll(() => bed[Symbol.asyncDispose]());

function task(run: (context: TaskContext) => unknown, more: Partial<TaskDefinition<never, unknown>> = {}) {
  return defineTask({
    kind: "task",
    timeout: "20s",
    ...more,
    run: (_input: unknown, context: TaskContext) => run(context),
  });
}

describe("failures", () => {
  it("fails input that does not validate without a retry, and says why", async () => {
    const submission = await bed.bed.submit(ONE);
    const runs: unknown[] = [];
    const strict = defineTask({
      kind: "task",
      retry: RETRIED,
      timeout: "20s",
      input: KEY_IS_TEXT,
      run: (input) => runs.push(input),
    });
    expect(await bed.deliver([strict], await bed.receive())).toEqual({ failed: [] });
    expect(await bed.record(submission, "a")).toMatchObject({
      public_state: "failed",
      failure_reason: "invalid input: key: expected a string",
      total_attempt_count: "1",
    });
    expect(runs).toEqual([]);
  });

  it("fails a NonRetryableError without a retry", async () => {
    const submission = await bed.bed.submit(ONE);
    const failing = task(() => Promise.reject(new NonRetryableError("no such image")), { retry: RETRIED });
    await bed.deliver([failing], await bed.receive());
    expect(await bed.record(submission, "a")).toMatchObject({
      public_state: "failed",
      failure_reason: "no such image",
    });
  });

  it("refuses a result that is too large, with advice, and does not try again", async () => {
    const submission = await bed.bed.submit(ONE);
    const large = task(() => "x".repeat(MAX_RESULT_BYTES - 1), { retry: RETRIED });
    await bed.deliver([large], await bed.receive());
    const { public_state: state, failure_reason: reason } = await bed.record(submission, "a");
    expect(state).toBe("failed");
    expect(reason).toContain("store it in S3");
  });

  it("stores a result of exactly the limit", async () => {
    const submission = await bed.bed.submit(ONE);
    await bed.deliver([task(() => "x".repeat(MAX_RESULT_BYTES - 2))], await bed.receive());
    expect((await bed.record(submission, "a")).public_state).toBe("completed");
  });

  it("announces a retry by one message, delayed by the backoff, and keeps the idempotency key and the trace", async () => {
    const submission = await bed.bed.submit(ONE, { traceparent: TRACE });
    const seen: Pick<TaskContext, "attempt" | "idempotencyKey" | "traceparent">[] = [];
    const flaky = task(
      ({ attempt, idempotencyKey, traceparent }) => {
        seen.push({ attempt, idempotencyKey, traceparent });
        if (seen.length === 1) throw new Error("try again");
      },
      { retry: RETRIED },
    );
    expect(await bed.deliver([flaky], await bed.receive())).toEqual({ failed: [] });
    expect((await bed.record(submission, "a")).public_state).toBe("delayed");
    expect(await bed.receive("default", 0)).toEqual([]);
    const delayed = await bed.receive("default", 6);
    expect(delayed).toHaveLength(1);
    await bed.deliver([flaky], delayed);
    expect((await bed.record(submission, "a")).public_state).toBe("completed");
    expect(await bed.receive("default", 0)).toEqual([]);
    const { keys, index } = {
      keys: bed.keys(submission, "a"),
      index: ROUTER.indexKeys(bed.keys(submission, "a").partition),
    };
    await bed.bed.valkey.pipelined([replayExecution(keys, index, LANE, [], Date.now())]);
    // A replay is announced by its caller: here, the first message stands for it.
    await bed.deliver([flaky], delayed);
    expect(seen.map(({ idempotencyKey }) => idempotencyKey)).toEqual([
      `${keys.id}:0`,
      `${keys.id}:0`,
      `${keys.id}:1`,
    ]);
    expect(seen.map(({ traceparent }) => traceparent)).toEqual([TRACE, TRACE, TRACE]);
    expect(seen.map(({ attempt }) => attempt).slice(0, 2)).toEqual([1, 2]);
  });
});

describe("the context", () => {
  it("reads the results of upstreams, and passes the trace of the submission on to every task", async () => {
    const submission = await bed.bed.submit(
      { name: "chain", tasks: [{ id: "a" }, { id: "b", dependsOn: ["a"] }, { id: "c", dependsOn: ["b"] }] },
      { traceparent: TRACE },
    );
    const seen: unknown[] = [];
    const chain = task(async ({ upstream, executionId, traceparent }) => {
      seen.push(traceparent);
      if (executionId === submission.executions.get("a")) return { n: 1 };
      return { from: await upstream("a"), unknown: await upstream("z").catch(String) };
    });
    for (let round = 0; round < 3; round += 1) await bed.deliver([chain], await bed.receive());
    expect(seen).toEqual([TRACE, TRACE, TRACE]);
    const result = await bed.bed.valkey.call("get", bed.keys(submission, "c").result);
    expect(JSON.parse(String(result))).toEqual({
      from: { n: 1 },
      unknown: expect.stringContaining('has no task "z"'),
    });
  });

  it("records progress, and refuses what is no percentage", async () => {
    const submission = await bed.bed.submit(ONE);
    const refused: unknown[] = [];
    const reporting = task(async ({ progress }) => {
      await progress(40, "halfway there");
      refused.push(await progress(150).catch(String));
    });
    await bed.deliver([reporting], await bed.receive());
    expect(await bed.record(submission, "a")).toMatchObject({
      progress_pct: "40",
      progress_message: "halfway there",
    });
    expect(refused).toEqual([expect.stringContaining("invalid_input")]);
  });
});

describe("middleware", () => {
  it("runs around the task, in middy's order, and may replace the input and the result", async () => {
    const submission = await bed.bed.submit(ONE);
    const order: string[] = [];
    const one = (name: string) => ({
      before: () => order.push(`before ${name}`),
      after: () => order.push(`after ${name}`),
    });
    const replacing = {
      before: (request: { input: unknown }) => {
        request.input = { key: 2 };
      },
      after: (request: { result: unknown }) => {
        request.result = { wrapped: request.result };
      },
    };
    const echo = defineTask({ kind: "task", timeout: "20s", run: (input: unknown) => input });
    await bed.deliver([echo], await bed.receive(), {
      ports: { middleware: [one("outer"), one("inner"), replacing] },
    });
    expect(order).toEqual(["before outer", "before inner", "after inner", "after outer"]);
    const result = await bed.bed.valkey.call("get", bed.keys(submission, "a").result);
    expect(JSON.parse(String(result))).toEqual({ wrapped: { key: 2 } });
  });

  it("sees the error of the task, and may replace it", async () => {
    const submission = await bed.bed.submit(ONE);
    const seen: string[] = [];
    const failing = task(() => Promise.reject(new Error("quota exceeded")), { retry: RETRIED });
    const middleware = [
      {
        onError: (request: { error: unknown }) => {
          seen.push(String(request.error));
          request.error = new NonRetryableError("over quota");
        },
      },
    ];
    await bed.deliver([failing], await bed.receive(), { ports: { middleware } });
    expect(seen).toEqual(["Error: quota exceeded"]);
    expect(await bed.record(submission, "a")).toMatchObject({
      public_state: "failed",
      failure_reason: "over quota",
    });
  });
});
