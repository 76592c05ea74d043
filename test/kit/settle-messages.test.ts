/** What becomes of a ready message, by the record of its execution. */

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type AnyTask, defineTask, type TaskContext } from "#sdk/kit/define-task.ts";
import { revokeLease } from "#shared/contract/upkeep.ts";
import { LeaseLostError, PublishError } from "#shared/errors.ts";
import { ROUTER } from "#test/kit/kit-bed.ts";
import { LambdaBed } from "#test/kit/lambda-bed.ts";
import { drainQueue } from "#test/support/drain.ts";

let bed: LambdaBed;
let runs: string[] = [];
let behave: (context: TaskContext) => unknown = () => undefined;
const task = defineTask({
  kind: "task",
  timeout: "20s",
  run: async (_input, context) => {
    runs.push(context.executionId);
    return behave(context);
  },
});
const ONE = { name: "one", tasks: [{ id: "a" }] };
const CHAIN = { name: "chain", tasks: [{ id: "a" }, { id: "b", dependsOn: ["a"] }] };

beforeAll(async () => {
  bed = await LambdaBed.start();
});
beforeEach(() => {
  runs = [];
  behave = () => undefined;
});
afterEach(() => bed.reset());
afterAll(() => bed[Symbol.asyncDispose]());

describe("without a run", () => {
  it("acknowledges the message of a purged execution", async () => {
    const submission = await bed.bed.submit(ONE);
    const { core, partition } = bed.keys(submission, "a");
    await bed.bed.valkey.call("set", ROUTER.flowKeys(submission.flowId, partition).purged, "1");
    await bed.bed.valkey.call("del", core);
    expect(await bed.deliver([task], await bed.receive())).toEqual({ failed: [] });
    expect(runs).toEqual([]);
  });

  it("keeps the message of an execution whose record is missing in a flow that was not purged", async () => {
    const submission = await bed.bed.submit(ONE);
    await bed.bed.valkey.call("del", bed.keys(submission, "a").core);
    const records = await bed.receive();
    expect(await bed.deliver([task], records)).toEqual({ failed: [records[0]?.messageId] });
  });

  it("dispatches an execution that has ended, and acknowledges its message", async () => {
    const submission = await bed.bed.submit(CHAIN);
    const records = await bed.receive();
    const failing = {
      send: () => Promise.resolve([{ ok: false as const, error: new PublishError("no answer", "unknown") }]),
    };
    const first = await bed.deliver([task], records, {
      ports: { dispatch: undefined, completions: failing },
    });
    expect(first.failed).toEqual([records[0]?.messageId]);
    expect((await bed.record(submission, "b")).public_state).toBe("waiting_children");
    expect(await bed.deliver([task], records)).toEqual({ failed: [] });
    expect(await bed.deliver([task], await bed.receive())).toEqual({ failed: [] });
    expect(runs).toEqual([submission.executions.get("a"), submission.executions.get("b")]);
  });

  it("cancels a member of a cancelled flow", async () => {
    const submission = await bed.bed.submit(ONE);
    const { partition } = bed.keys(submission, "a");
    const { core } = ROUTER.flowKeys(submission.flowId, partition);
    await bed.bed.valkey.call("hset", core, "public_flow_state", "cancelled");
    expect(await bed.deliver([task], await bed.receive())).toEqual({ failed: [] });
    expect((await bed.record(submission, "a")).public_state).toBe("cancelled");
    expect(runs).toEqual([]);
  });

  it("gives back and counts an unknown kind, and finishes the rest of the batch", async () => {
    const submission = await bed.bed.submit({
      name: "mixed",
      tasks: [{ id: "a" }, { id: "b", kind: "mystery" }, { id: "c" }],
    });
    const records = await bed.receive();
    const unknown = records.find(({ body }) => body.includes("mystery"));
    const malformed = {
      ...records[0],
      messageId: "malformed",
      body: '{"type":"ready"}',
    } as (typeof records)[0];
    const { failed } = await bed.deliver([task], [malformed, ...records]);
    expect(failed.toSorted()).toEqual(["malformed", unknown?.messageId].toSorted());
    expect(bed.events).toContain("unknown default/mystery");
    expect((await bed.record(submission, "b")).public_state).toBe("waiting");
    expect(runs).toHaveLength(2);
  });

  it("runs no execution of another lane", async () => {
    const submission = await bed.bed.submit(ONE);
    const inImages = defineTask({ kind: "task", lane: "images", run: () => void runs.push("images") });
    const records = await bed.receive();
    const forged = records.map((record) => ({ ...record, body: record.body.replace("default", "images") }));
    const other = records.map((record) => ({ ...record, body: record.body.replace('"task"', '"mystery"') }));
    for (const [tasks, delivered] of [
      [[inImages], records],
      [[task, inImages], forged],
      [[task, inImages], other],
    ] as [AnyTask[], typeof records][]) {
      expect((await bed.deliver(tasks, delivered)).failed).toHaveLength(1);
    }
    expect(runs).toEqual([]);
    expect((await bed.record(submission, "a")).public_state).toBe("waiting");
  });

  it("changes no record by the receive count, and starts no task that may not end in time", async () => {
    const submission = await bed.bed.submit(ONE);
    const [record] = await bed.receive();
    if (record === undefined) throw new Error("no message");
    const often = { ...record, attributes: { ...record.attributes, ApproximateReceiveCount: "99" } };
    const before = await bed.record(submission, "a");
    // The invocation is too short for the task.
    expect((await bed.deliver([task], [often], { timeoutMs: 24_000 })).failed).toHaveLength(1);
    expect(bed.warnings.join()).toContain("raise the timeout of the function");
    // It was long enough when it began, and is not when the task could start.
    let calls = 0;
    const startedAt = Date.now();
    const now = () => startedAt + (calls++ < 2 ? 0 : 10_000);
    expect((await bed.deliver([task], [often], { timeoutMs: 30_000, ports: { now } })).failed).toHaveLength(
      1,
    );
    expect(bed.warnings.join()).toContain("exceeds the rest");
    expect(await bed.record(submission, "a")).toEqual(before);
    expect((await bed.deliver([task], [often])).failed).toEqual([]);
    expect((await bed.record(submission, "a")).public_state).toBe("completed");
  });
});

describe("leases", () => {
  it("acknowledges another message of a running execution, and delays a redelivery of its own until the lease ends", async () => {
    const submission = await bed.bed.submit(ONE);
    const records = await bed.receive();
    const redelivered = records.map((record) => ({
      ...record,
      attributes: { ...record.attributes, ApproximateReceiveCount: "2" },
    }));
    const copies = records.map((record) => ({
      ...record,
      messageId: "a0000000-0000-4000-8000-000000000000",
    }));
    const results: Record<string, unknown> = {};
    behave = async () => {
      results.redelivered = await bed.deliver([task], redelivered, { ports: { leaseTtlMs: 2_400 } });
      const visible = await bed.receive("default", 5);
      results.leftMs =
        Number((await bed.record(submission, "a")).lease_expires_at) - Number(await serverMs());
      results.visible = visible.length;
      results.copy = await bed.deliver([task], copies);
    };
    const lease = { ports: { leaseTtlMs: 2_400 } };
    // The lease is renewed while the task runs, so it is still live when the message is visible again.
    expect((await bed.deliver([task], records, lease)).failed).toEqual([]);
    expect(results.redelivered).toEqual({ failed: [records[0]?.messageId] });
    expect(results.visible).toBe(1);
    expect(results.leftMs).toBeGreaterThan(0);
    expect(results.copy).toEqual({ failed: [] });
    expect(runs).toHaveLength(1);
  });

  it("aborts the signal when the lease is revoked, and reports nothing", async () => {
    const submission = await bed.bed.submit(ONE);
    const reasons: unknown[] = [];
    behave = async ({ signal }) => {
      const keys = bed.keys(submission, "a");
      const target = { index: ROUTER.indexKeys(keys.partition), lane: task.lane, keys };
      await bed.bed.valkey.pipelined([revokeLease(target, "test-1", "", "operator")]);
      await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
      reasons.push(signal.reason);
    };
    expect((await bed.deliver([task], await bed.receive(), { ports: { leaseTtlMs: 600 } })).failed).toEqual(
      [],
    );
    expect(reasons[0]).toBeInstanceOf(LeaseLostError);
    expect(bed.events).toEqual(["task: lease_lost, attempt 1"]);
    expect(await bed.record(submission, "a")).toMatchObject({
      lifecycle_phase: "active",
      ownership_state: "lease_revoked",
    });
  });

  it("lets the attempt time out 30 s after the task's own limit", async () => {
    const submission = await bed.bed.submit(ONE);
    const keys = bed.keys(submission, "a");
    let limit: unknown;
    let acquired: unknown;
    behave = async () => {
      const { attemptTimeout } = ROUTER.indexKeys(keys.partition);
      limit = await bed.bed.valkey.call("zscore", attemptTimeout, keys.id);
      acquired = await bed.bed.valkey.call("hget", keys.leaseCurrent, "acquired_at");
    };
    await bed.deliver([task], await bed.receive());
    expect(Number(limit) - Number(acquired)).toBe(50_000);
  });

  it("gives an execution up when it was reclaimed too often, and sends its completion", async () => {
    const submission = await bed.bed.submit(CHAIN);
    const records = await bed.receive();
    // The worker dies with the execution: its lease runs out.
    behave = async () => {
      await bed.lapse(submission, "a");
      await bed.bed.valkey.call("hset", bed.keys(submission, "a").core, "lease_reclaim_count", "5");
    };
    await bed.deliver([task], records);
    expect((await bed.record(submission, "a")).lifecycle_phase).toBe("active");
    const redelivered = records.map((record) => ({
      ...record,
      attributes: { ...record.attributes, ApproximateReceiveCount: "2" },
    }));
    expect(await bed.deliver([task], redelivered, { ports: { dispatch: undefined } })).toEqual({
      failed: [],
    });
    expect(await bed.record(submission, "a")).toMatchObject({
      public_state: "failed",
      failure_reason: "max_reclaims_exceeded",
    });
    const completions = await drainQueue(bed.bed.client, bed.bed.queue.queueUrl);
    expect(completions.map(({ Body: body = "" }) => JSON.parse(body) as unknown)).toMatchObject([
      { execution_id: submission.executions.get("a"), outcome: "failed" },
    ]);
    expect(runs).toHaveLength(1);
  });

  it("runs what was reclaimed before last and alone, after the finished messages were deleted", async () => {
    const submission = await bed.bed.submit({ name: "three", tasks: ["x", "y", "z"].map((id) => ({ id })) });
    for (const id of ["x", "y"]) {
      await bed.bed.valkey.call("hset", bed.keys(submission, id).core, "lease_reclaim_count", "1");
    }
    const names = new Map([...submission.executions].map(([name, id]) => [String(id), name]));
    let running = 0;
    let most = 0;
    behave = async ({ executionId }) => {
      running += 1;
      most = Math.max(most, running);
      bed.events.push(`run ${names.get(executionId)}`);
      await new Promise((resolve) => setImmediate(resolve));
      running -= 1;
    };
    await bed.deliver([task], await bed.receive());
    expect(most).toBe(1);
    expect(bed.events.slice(0, 3)).toEqual(["run z", "task: success, attempt 1", "deleted 1"]);
    expect(
      bed.events
        .slice(3)
        .filter((event) => event.startsWith("run"))
        .toSorted(),
    ).toEqual(["run x", "run y"]);
  });
});

async function serverMs(): Promise<number> {
  const time = await bed.bed.valkey.call("time");
  return Array.isArray(time) ? Number(time[0]) * 1_000 + Number(time[1]) / 1_000 : Number.NaN;
}
