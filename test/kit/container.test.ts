/** What a container worker does beside running tasks: concurrency, polling, stopping, and messages of long tasks. */

import { setTimeout as sleep } from "node:timers/promises";
import { GetQueueAttributesCommand } from "@aws-sdk/client-sqs";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { LIBRARY_NAME } from "#lua/library.ts";
import { containerWorker } from "#sdk/kit/container-worker.ts";
import { type AnyTask, defineTask } from "#sdk/kit/define-task.ts";
import { WorkerEngine } from "#sdk/kit/engine.ts";
import { LanePool } from "#sdk/kit/lane-pool.ts";
import { LaneRunner } from "#sdk/kit/lane-runner.ts";
import { QueueSource } from "#sdk/kit/queue-source.ts";
import { TaskRegistry } from "#sdk/kit/registry.ts";
import type { Submission } from "#sdk/submission/submit.ts";
import type { Pipelines } from "#shared/contract/command.ts";
import { parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { revokeLease } from "#shared/contract/upkeep.ts";
import { KitBed, ROUTER } from "#test/kit/kit-bed.ts";
import { LANE, LambdaBed } from "#test/kit/lambda-bed.ts";
import { drainQueue } from "#test/support/drain.ts";
import { flowFabricLikeLibrary } from "#test/support/flowfabric-like-library.ts";
import { drainReady } from "#test/support/ready.ts";

const IMAGES = unwrap(parseLaneId("images"));
const WAIT = { timeout: 8_000, interval: 20 };
const ONE = { name: "one", tasks: [{ id: "a" }] };

let bed: LambdaBed;
// The queue may hand out a message to the long poll of a worker that has just stopped: each test has queues of its own.
beforeEach(async () => {
  bed = await LambdaBed.start();
});
afterEach(() => bed[Symbol.asyncDispose]());

interface Running extends AsyncDisposable {
  readonly stopped: Promise<void>;
  stop(): void;
}

/** Runs a pool. `polls`: without ready queues. */
function runPool(
  tasks: readonly AnyTask[],
  places: Readonly<Record<string, number>>,
  {
    polls = false,
    dispatch = "inline" as const,
    valkey = bed.bed.valkey as Pipelines,
  }: Partial<{
    polls: boolean;
    dispatch: "inline" | "queue";
    valkey: Pipelines;
  }> = {},
): Running {
  const stop = new AbortController();
  const { router, completions } = bed.ports();
  const pool = new LanePool(
    {
      valkey,
      router,
      sqs: bed.bed.client,
      completions,
      readyQueueUrls: polls ? new Map() : bed.bed.readyQueues,
      dispatch,
      telemetry: bed.telemetry,
      metrics: bed.metrics,
      ensureLibrary: () => Promise.resolve(),
    },
    new TaskRegistry(tasks),
    new Map(Object.entries(places).map(([name, count]) => [unwrap(parseLaneId(name)), count])),
  );
  const stopped = pool.run(stop.signal, 20_000);
  return {
    stopped,
    stop: () => stop.abort(),
    [Symbol.asyncDispose]: async () => {
      stop.abort();
      await stopped;
      pool[Symbol.dispose]();
    },
  };
}

async function stateOf(submission: Submission, task: string): Promise<string | undefined> {
  return (await bed.record(submission, task)).public_state;
}

/** A task that ends when it is told to. */
function gated(more: { readonly lane?: string } = {}) {
  const gate = Promise.withResolvers<void>();
  const begun: string[] = [];
  let running = 0;
  let most = 0;
  const task = defineTask({
    kind: "task",
    timeout: "20s",
    ...more,
    run: async (_input, { executionId }) => {
      begun.push(executionId);
      running += 1;
      most = Math.max(most, running);
      await gate.promise;
      running -= 1;
    },
  });
  return { task, begun, open: gate.resolve, most: () => most };
}

it("runs as many executions of each lane at once as it may", async () => {
  const [plain, images] = [gated(), gated({ lane: "images" })];
  const submission = await bed.bed.submit({
    name: "lanes",
    tasks: Array.from({ length: 10 }, (_, n) => ({ id: `t${n}`, lane: n % 2 === 0 ? "default" : "images" })),
  });
  await using _pool = runPool([plain.task, images.task], { default: 2, images: 3 });
  await expect.poll(() => [plain.begun.length, images.begun.length], WAIT).toEqual([2, 3]);
  plain.open();
  images.open();
  await expect.poll(() => stateOf(submission, "t9"), WAIT).toBe("completed");
  await expect.poll(() => [plain.begun.length, images.begun.length], WAIT).toEqual([5, 5]);
  expect([plain.most(), images.most()]).toEqual([2, 3]);
});

describe("a stop", () => {
  it("lets running tasks end, and gives back what has not begun", async () => {
    const children = ["b", "c", "d"];
    const submission = await bed.bed.submit({
      name: "fan-out",
      tasks: [{ id: "a" }, ...children.map((id) => ({ id, dependsOn: ["a"] }))],
    });
    const { task, begun, open } = gated();
    const isRoot = (id: string): boolean => id === submission.executions.get("a");
    const first = defineTask({
      kind: "task",
      timeout: "20s",
      run: async (input, context) =>
        isRoot(context.executionId) ? undefined : task.run(input as never, context),
    });
    await using pool = runPool([first], { default: 1 });
    await expect.poll(() => begun.length, WAIT).toBe(1);
    pool.stop();
    const back: string[] = [];
    await expect
      .poll(async () => {
        for (const one of await drainReady(bed.bed.client, bed.urlOf("default"))) back.push(one.executionId);
        return back.length;
      }, WAIT)
      .toBe(2);
    open();
    await pool.stopped;
    expect(begun).toHaveLength(1);
    expect([...begun, ...back].toSorted()).toEqual(
      children.map((id) => String(submission.executions.get(id))).toSorted(),
    );
    const states = await Promise.all(children.map((id) => stateOf(submission, id)));
    expect(states.toSorted()).toEqual(["completed", "waiting", "waiting"]);
  });

  it("follows SIGTERM", async () => {
    Object.assign(process.env, bed.bed.queue.environment);
    const { task, begun, open } = gated();
    const submission = await bed.bed.submit(ONE);
    const running = containerWorker({
      tasks: [task],
      environment: bed.bed.environment,
      telemetry: bed.telemetry,
    }).run();
    await expect.poll(() => begun.length, WAIT).toBe(1);
    process.emit("SIGTERM");
    open();
    await running;
    expect(await stateOf(submission, "a")).toBe("completed");
    expect(process.listenerCount("SIGTERM")).toBe(0);
  });
});

it("deletes the message of a task that runs for too long for a queue, and carries on", async () => {
  const { task, begun, open } = gated();
  const submission = await bed.bed.submit(ONE);
  const ports = bed.ports();
  using engine = new WorkerEngine(ports, new TaskRegistry([task]));
  const lane = new LaneRunner(engine, LANE, { concurrency: 1, hasQueue: true });
  const times = { maxInFlightMs: 100, extendEveryMs: 20 };
  const source = new QueueSource(
    bed.bed.client,
    bed.urlOf("default"),
    ports.queues,
    lane,
    bed.telemetry,
    times,
  );
  const stop = new AbortController();
  const running = source.run(stop.signal);
  await expect.poll(() => begun.length, WAIT).toBe(1);
  await expect
    .poll(async () => {
      const { Attributes: counts = {} } = await bed.bed.client.send(
        new GetQueueAttributesCommand({ QueueUrl: bed.urlOf("default"), AttributeNames: ["All"] }),
      );
      return (
        Number(counts.ApproximateNumberOfMessages) + Number(counts.ApproximateNumberOfMessagesNotVisible)
      );
    }, WAIT)
    .toBe(0);
  open();
  await expect.poll(() => stateOf(submission, "a"), WAIT).toBe("completed");
  stop.abort();
  await running;
  await source.settled();
});

it("sends an execution that it released, and whose kind it does not know, to the queue of its lane", async () => {
  const submission = await bed.bed.submit({
    name: "kinds",
    tasks: [{ id: "a" }, { id: "b", kind: "mystery", dependsOn: ["a"] }],
  });
  const task = defineTask({ kind: "task", timeout: "20s", run: () => undefined });
  // A worker of another lane keeps the message in its queue.
  const { task: images } = gated({ lane: "images" });
  await using pool = runPool([task, images], { default: 1 });
  await expect.poll(() => stateOf(submission, "a"), WAIT).toBe("completed");
  await expect.poll(() => bed.events.includes("unknown default/mystery"), WAIT).toBe(true);
  pool.stop();
});

describe("without a ready queue", () => {
  it("slows down while there is nothing that it can run", async () => {
    let calls = 0;
    const counting: Pipelines = {
      pipelined: (commands) => {
        calls += 1;
        return bed.bed.valkey.pipelined(commands);
      },
    };
    const task = defineTask({ kind: "task", timeout: "20s", run: () => undefined });
    await bed.bed.submit({ name: "mystery", tasks: [{ id: "a", kind: "mystery" }] });
    await using _pool = runPool([task], { default: 1 }, { polls: true, valkey: counting });
    await sleep(1_500);
    // A poll makes two calls, and the check of the kind a third. Every 20 ms, that would be 225.
    expect(calls).toBeLessThan(60);
    expect(bed.events[0]).toBe("unknown default/mystery");
  });

  it("cancels members of cancelled flows, gives up, and finds leases that were revoked", async () => {
    const task = defineTask({ kind: "task", timeout: "20s", run: () => undefined });
    const [cancelled, poison, revoked] = await Promise.all([1, 2, 3].map(() => bed.bed.submit(ONE)));
    if (cancelled === undefined || poison === undefined || revoked === undefined) throw new Error("no flow");
    const records = await bed.receive();
    const of = (one: Submission) => records.filter(({ body }) => body.includes(String(one.flowId)));
    const { core } = ROUTER.flowKeys(cancelled.flowId, bed.keys(cancelled, "a").partition);
    await bed.bed.valkey.call("hset", core, "public_flow_state", "cancelled");
    // Workers of two executions die: one lease runs out for the sixth time, the other one is revoked.
    const dying = defineTask({
      kind: "task",
      timeout: "20s",
      run: async (_input, { executionId }) => {
        if (executionId === poison.executions.get("a")) {
          await bed.lapse(poison, "a");
          await bed.bed.valkey.call("hset", bed.keys(poison, "a").core, "lease_reclaim_count", "5");
          return;
        }
        const keys = bed.keys(revoked, "a");
        const target = { keys, index: ROUTER.indexKeys(keys.partition), lane: LANE };
        await bed.bed.valkey.pipelined([revokeLease(target, "test-1", "", "operator")]);
      },
    });
    await bed.deliver([dying], [...of(poison), ...of(revoked)]);
    expect(await stateOf(poison, "a")).toBe("active");
    expect(await stateOf(revoked, "a")).toBe("active");
    await using _pool = runPool([task], { default: 2 }, { polls: true, dispatch: "queue" });
    await expect.poll(() => stateOf(cancelled, "a"), WAIT).toBe("cancelled");
    await expect.poll(() => stateOf(poison, "a"), WAIT).toBe("failed");
    await expect.poll(() => stateOf(revoked, "a"), WAIT).toBe("completed");
    const ended: string[] = [];
    await expect
      .poll(async () => {
        for (const { Body: body = "" } of await drainQueue(bed.bed.client, bed.bed.queue.queueUrl))
          ended.push(body);
        return ended.filter((body) => body.includes(String(poison.executions.get("a")))).length;
      }, WAIT)
      .toBe(1);
  });

  it("runs an execution whose worker in another lane died only in that lane", async () => {
    const submission = await bed.bed.submit({ name: "images", tasks: [{ id: "a", lane: IMAGES }] });
    const dying = defineTask({
      kind: "task",
      lane: "images",
      timeout: "20s",
      run: () => bed.lapse(submission, "a"),
    });
    await bed.deliver([dying], await bed.receive("images"));
    const [plain, images] = [gated(), gated({ lane: "images" })];
    images.open();
    {
      await using _pool = runPool([plain.task], { default: 1 }, { polls: true });
      await sleep(200);
      expect(bed.events.filter((event) => event.startsWith("unknown"))).toEqual([]);
    }
    await using _pool = runPool([images.task], { images: 1 }, { polls: true });
    await expect.poll(() => stateOf(submission, "a"), WAIT).toBe("completed");
  });
});

it("warns once that FlowFabric's budgets do not apply", async () => {
  await using own = await KitBed.start(["default"]);
  await own.valkey.call("function", "DELETE", LIBRARY_NAME);
  await own.valkey.call("function", "LOAD", flowFabricLikeLibrary(34));
  Object.assign(process.env, own.queue.environment);
  const warnings: string[] = [];
  const telemetry = { ...bed.telemetry, warn: (message: string) => void warnings.push(message) };
  const task = defineTask({ kind: "task", timeout: "20s", run: () => undefined });
  const worker = containerWorker({ tasks: [task], environment: own.environment, telemetry });
  await worker.run(AbortSignal.timeout(300));
  expect(warnings.filter((one) => one.includes("budgets"))).toHaveLength(1);
});
