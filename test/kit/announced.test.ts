/** Flows that end without a poller, although messages are lost and workers die: the reconciler announces the rest. */

import { randomUUID } from "node:crypto";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { recordOf } from "#local/event.ts";
import { defineTask, type TaskContext } from "#sdk/kit/define-task.ts";
import { lambdaWorker } from "#sdk/kit/lambda-worker.ts";
import type { Submission } from "#sdk/submission/submit.ts";
import { type ExecutionId, parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { readyMarksKey } from "#shared/contract/keys.ts";
import { claimExecution, issueClaimGrant } from "#shared/contract/ownership.ts";
import { SqsBacklog } from "#shared/queue/backlog.ts";
import { SqsReadyPublisher } from "#shared/ready/publisher.ts";
import { selectTasks } from "#shared/reconcile/select-tasks.ts";
import { sweep } from "#shared/reconcile/sweep.ts";
import { doneOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";
import { contextOf, KitBed, ROUTER } from "#test/kit/kit-bed.ts";
import { drainQueue } from "#test/support/drain.ts";
import { flowFabricLikeLibrary } from "#test/support/flowfabric-like-library.ts";
import { drainReady } from "#test/support/ready.ts";
import { RecordedGauges } from "#test/support/reconcile.ts";
import { run } from "#test/support/valkey.ts";

const LANE = unwrap(parseLaneId("default"));
const FLOW = { name: "pair", tasks: [{ id: "first" }, { id: "second", dependsOn: ["first"] }] };
/** FlowFabric's engine would do what the first two do. */
const TASKS = ["leases", "delays", "dependencies", "ready"] as const;
const ENDED = { timeout: 20_000, interval: 50 };

const LIBRARIES = [
  ["Sluice's library", undefined],
  ["a library like FlowFabric's", flowFabricLikeLibrary(34)],
] as const;

describe.each(LIBRARIES)("without a poller, on %s", (_, library) => {
  let bed: KitBed;
  let behave: (context: TaskContext) => Promise<unknown> = () => Promise.resolve();
  let attempts: number[] = [];
  const task = defineTask({
    kind: "task",
    timeout: "20s",
    run: (_input, context) => {
      attempts.push(context.attempt);
      return behave(context);
    },
  });

  // Each test has queues of its own: a receive that is stopped may take a message with it.
  beforeEach(async () => {
    bed = await KitBed.start([LANE]);
    if (library !== undefined) await bed.valkey.call("function", "LOAD", "REPLACE", library);
    attempts = [];
    behave = () => Promise.resolve();
  });
  afterEach(() => bed[Symbol.asyncDispose]());

  const queueUrl = () => bed.readyQueues.get(LANE) ?? expect.fail("no queue");
  const idOf = ({ executions }: Submission, id: string): ExecutionId =>
    executions.get(id) ?? expect.fail(`no task ${id}`);

  function startWorker(): void {
    bed.trigger(bed.lambda([task]));
  }

  const statesOf = async ({ executions, partition }: Submission): Promise<unknown[]> =>
    Promise.all(
      [...executions.values()].map((id) =>
        run(bed.valkey, partition, "hget", ROUTER.execKeys(id).core, "public_state"),
      ),
    );

  /** One run of the reconciler, as the schedule starts it. */
  async function reconcile(): Promise<void> {
    const readyQueues = {
      publisher: new SqsReadyPublisher(bed.client, bed.readyQueues),
      backlogs: new Map([...bed.readyQueues].map(([lane, url]) => [lane, new SqsBacklog(bed.client, url)])),
    };
    const report = await sweep({
      valkey: bed.valkey,
      publisher: bed.completions,
      backlog: new SqsBacklog(bed.client, bed.queue.queueUrl),
      readyQueues,
      telemetry: new RecordedGauges(),
      ensureLibrary: () => Promise.resolve(),
      router: ROUTER,
      partitions: ROUTER.partitions,
      tasks: selectTasks(TASKS, library !== undefined, { retentionMs: 0, flowEnds: undefined }, readyQueues),
      lanes: [LANE],
      likelyLanes: [],
      graceMs: 0,
      deadlineMs: Number.POSITIVE_INFINITY,
      intervalMs: Number.POSITIVE_INFINITY,
      now: Date.now,
      sleep: () => Promise.reject(new Error("a run without repetitions waits for nothing")),
    });
    expect(report.state).toBe("complete");
  }

  it("a flow whose first message is lost ends: the message is sent again", async () => {
    const submission = await bed.submit(FLOW);
    expect(await drainReady(bed.client, queueUrl())).toHaveLength(1);
    startWorker();
    await reconcile();
    await expect.poll(() => statesOf(submission), ENDED).toEqual(["completed", "completed"]);
    expect(attempts).toEqual([1, 1]);
  });

  it("a flow whose worker died with its message ends: the lease runs out, and the execution is announced", async () => {
    const submission = await bed.submit(FLOW);
    expect(await drainReady(bed.client, queueUrl())).toHaveLength(1);
    const keys = ROUTER.execKeys(idOf(submission, "first"));
    const target = { keys, index: ROUTER.indexKeys(keys.partition), lane: LANE };
    const dead = { workerId: "dead", instanceId: "dead-1" };
    const lease = { leaseId: randomUUID(), attemptId: randomUUID(), leaseTtlMs: 1, renewBeforeMs: 1 };
    const claimed = await bed.valkey.pipelined([
      issueClaimGrant(target, dead, 1_000),
      claimExecution(target, dead, lease),
    ]);
    for (const result of claimed) doneOrThrow("claim", valueOrThrow(result));
    startWorker();
    // The lease lasts one millisecond, but the reconciler may be as fast.
    await expect
      .poll(async () => {
        await reconcile();
        return statesOf(submission);
      }, ENDED)
      .toEqual(["completed", "completed"]);
    expect(attempts).toEqual([2, 1]);
  });

  it("a root with a delay above 15 minutes is announced when the delay is over", async () => {
    const submission = await bed.submit({ name: "late", tasks: [{ id: "first", delaySeconds: 3_600 }] });
    expect(await drainReady(bed.client, queueUrl())).toEqual([]);
    const { core, partition, id } = ROUTER.execKeys(idOf(submission, "first"));
    const past = Date.now() - 1_000;
    await run(bed.valkey, partition, "hset", core, "delay_until", past);
    await run(bed.valkey, partition, "zadd", ROUTER.indexKeys(partition).lane(LANE).delayed, past, id);
    startWorker();
    await reconcile();
    await expect.poll(() => statesOf(submission), ENDED).toEqual(["completed"]);
  });

  it("a root with a short delay runs when its delayed message arrives, without the reconciler", async () => {
    const submission = await bed.submit({ name: "soon", tasks: [{ id: "first", delaySeconds: 1 }] });
    startWorker();
    await expect.poll(() => statesOf(submission), ENDED).toEqual(["completed"]);
    const core = ROUTER.execKeys(idOf(submission, "first")).core;
    const started = Number(await run(bed.valkey, submission.partition, "hget", core, "started_at"));
    const flow = ROUTER.flowKeys(submission.flowId, submission.partition).core;
    const created = Number(await run(bed.valkey, submission.partition, "hget", flow, "created_at"));
    expect(started - created).toBeGreaterThanOrEqual(1_000);
  });

  describe("a retry", () => {
    const RETRIED = {
      name: "retried",
      tasks: [{ id: "first", retry: { attempts: 2, backoff: { type: "fixed", delayMs: 300 } } }],
    };
    beforeEach(() => {
      behave = ({ attempt }) => (attempt === 1 ? Promise.reject(new Error("not yet")) : Promise.resolve());
    });

    it("runs when its delayed message arrives, and is marked as announced", async () => {
      const submission = await bed.submit(RETRIED);
      startWorker();
      await expect.poll(() => statesOf(submission), ENDED).toEqual(["completed"]);
      expect(attempts).toEqual([1, 2]);
      const id = idOf(submission, "first");
      const key = readyMarksKey(submission.partition, submission.flowId);
      const mark = await run(bed.valkey, submission.partition, "hget", key, id.slice(id.indexOf("}:") + 2));
      expect(mark).toBe("0:1");
    });

    it("keeps the first message if its own is not accepted", async () => {
      const submission = await bed.submit(RETRIED);
      const [message] = await drainQueue(bed.client, queueUrl());
      if (message === undefined) expect.fail("no message");
      const record = recordOf(message, { queueArn: "arn", region: "us-east-1" });
      Object.assign(process.env, bed.queue.environment);
      const handler = lambdaWorker({
        tasks: [task],
        environment: { ...bed.environment, READY_QUEUES: JSON.stringify({ [LANE]: `${queueUrl()}-gone` }) },
      });
      const deliver = async () => {
        const { batchItemFailures } = await handler({ Records: [record] }, contextOf(60_000));
        return batchItemFailures.length;
      };
      expect(await deliver()).toBe(1);
      expect(attempts).toEqual([1]);
      expect(await statesOf(submission)).toEqual(["delayed"]);
      // Before its time, the message is given back; then it runs the execution.
      await expect.poll(deliver, ENDED).toBe(0);
      expect(await statesOf(submission)).toEqual(["completed"]);
      expect(attempts).toEqual([1, 2]);
    });
  });
});
