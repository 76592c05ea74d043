/** Delays, deadlines and the policy of submitted executions. Times come from the server, and do not change. */

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { planSubmission } from "#sdk/submission/plan.ts";
import { HELD_UNTIL_MS } from "#sdk/submission/roots.ts";
import type { Task } from "#sdk/submission/workflow.ts";
import { promoteDue } from "#sdk/worker/promote.ts";
import { command, type Pipelines } from "#shared/contract/command.ts";
import type { FlowId } from "#shared/contract/ids.ts";
import { fieldText } from "#shared/contract/record.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { InterceptedPipelines, LANE, recordOf, task, workflowOf } from "#test/submission/fixture.ts";
import { idOf, submit } from "#test/submission/flow-checks.ts";
import { FlowFixture, newFlowId, ROUTER } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS_OF_BOTH, run, snapshot } from "#test/support/valkey.ts";

const HOUR_MS = 3_600_000;

function withTask(edges: string[], id: string, overrides: Partial<Task>) {
  const workflow = workflowOf(...edges);
  return { ...workflow, tasks: workflow.tasks.map((one) => (one.id === id ? task(id, overrides) : one)) };
}

describe.each(DEPLOYMENTS_OF_BOTH)("times of a submission ($name, $edition KEYS)", ({ connect, edition }) => {
  let valkey: Valkey;
  beforeAll(() => {
    valkey = connect();
  });
  afterAll(() => valkey.close());

  const createdAt = async (flowId: FlowId): Promise<number> => {
    const { core, partition } = ROUTER.flowKeys(flowId);
    return Number(await run(valkey, partition, "hget", core, "created_at"));
  };

  /** Sets the time at which the flow was created back, as if it had been submitted earlier. */
  const setBack = async (flowId: FlowId, ms: number): Promise<void> => {
    const { core, partition } = ROUTER.flowKeys(flowId);
    await run(valkey, partition, "hincrby", core, "created_at", -ms);
  };

  /** Dies before the first pipeline that contains a call of `name`. */
  const dyingBefore = (name: string): Pipelines =>
    new InterceptedPipelines(valkey, (_, send, commands) =>
      commands.some(({ args }) => args[0] === name) ? Promise.reject(new Error("the process died")) : send(),
    );

  test("a root that runs at once became eligible at the server's time", async () => {
    const submission = await submit(valkey, workflowOf("a>b"));
    const record = await recordOf(valkey, idOf(submission, "a"), "public_state", "last_transition_at");
    const [seconds] = (await run(valkey, submission.partition, "time")) as string[];
    const age = Number(seconds) * 1_000 - Number(record.last_transition_at);
    expect(record.public_state).toBe("waiting");
    expect(Number(record.last_transition_at)).toBeGreaterThanOrEqual(await createdAt(submission.flowId));
    expect(Math.abs(age)).toBeLessThan(HOUR_MS);
  });

  test("kind, policy and deadline are in the record, and nothing of what a task does not have", async () => {
    const submission = await submit(
      valkey,
      withTask(["a>b"], "a", {
        kind: "report",
        retry: {
          attempts: 4,
          backoff: { type: "exponential", initialDelayMs: 1, maxDelayMs: 9, multiplier: 3 },
        },
        timeoutSeconds: 1.5,
        maxReclaims: 0,
        retentionHours: 2,
        deadline: "2999-12-31T23:00:00+01:00",
      }),
    );
    const [a, b] = [idOf(submission, "a"), idOf(submission, "b")];
    expect(await recordOf(valkey, a, "execution_kind")).toEqual({ execution_kind: "report" });
    expect(await recordOf(valkey, b, "execution_kind")).toEqual({ execution_kind: "task" });
    const { partition, policy } = ROUTER.execKeys(a);
    expect(JSON.parse(fieldText(await run(valkey, partition, "get", policy)))).toEqual({
      max_reclaim_count: 0,
      retry_policy: {
        max_retries: 3,
        backoff: { type: "exponential", initial_delay_ms: 1, max_delay_ms: 9, multiplier: 3 },
      },
      timeout_policy: { attempt_timeout_ms: 1_500 },
      stream_policy: { retention_ttl_ms: 2 * HOUR_MS },
    });
    expect(await run(valkey, partition, "exists", ROUTER.execKeys(b).policy)).toBe(0);
    const { executionDeadline } = ROUTER.indexKeys(partition);
    expect(await run(valkey, partition, "zrange", executionDeadline, 0, -1, "withscores")).toEqual([
      a,
      String(Date.parse("2999-12-31T22:00:00Z")),
    ]);
  });

  test("a delayed root is released into `delayed`, with its delay counted from the creation of the flow", async () => {
    const workflow = withTask(["a>b", "c>b"], "a", { delaySeconds: 3_600.5, deadline: 7_200 });
    const submission = await submit(valkey, workflow);
    const { flowId, partition } = submission;
    const until = (await createdAt(flowId)) + 3_600_500;
    const root = idOf(submission, "a");
    const { delayed, eligible } = ROUTER.indexKeys(partition).lane(LANE);
    expect(await run(valkey, partition, "zrange", delayed, 0, -1, "withscores")).toEqual([
      root,
      String(until),
    ]);
    expect(await run(valkey, partition, "zrange", eligible, 0, -1)).toEqual([idOf(submission, "c")]);
    expect(await recordOf(valkey, root, "public_state", "delay_until", "blocking_reason")).toEqual({
      public_state: "delayed",
      delay_until: String(until),
      blocking_reason: "waiting_for_delay",
    });
    const { executionDeadline } = ROUTER.indexKeys(partition);
    expect(await run(valkey, partition, "zscore", executionDeadline, root)).toBe(
      String((await createdAt(flowId)) + 7_200_000),
    );
    const before = await snapshot(valkey, partition);
    await submit(valkey, workflow, flowId);
    expect(await snapshot(valkey, partition)).toEqual(before);
  });

  test("a delay that is over when the root is released makes it eligible; one that is not over ends by itself", async () => {
    const workflow = withTask(["a>b"], "a", { delaySeconds: 60 });
    for (const passedMs of [60_000, 0]) {
      const flowId = newFlowId();
      await expect(submit(dyingBefore("ff_stage_dependency_edge"), workflow, flowId)).rejects.toThrow("died");
      await setBack(flowId, passedMs);
      const submission = await submit(valkey, workflow, flowId);
      const { partition } = submission;
      const root = idOf(submission, "a");
      const state = passedMs === 0 ? "delayed" : "waiting";
      expect(await recordOf(valkey, root, "public_state")).toEqual({ public_state: state });
      if (passedMs > 0) continue;
      // The time of the delay comes.
      const { delayed } = ROUTER.indexKeys(partition).lane(LANE);
      await run(valkey, partition, "zadd", delayed, 1, root);
      await run(valkey, partition, "hset", ROUTER.execKeys(root).core, "delay_until", 1);
      expect(await promoteDue({ valkey, router: ROUTER }, { partition, lane: LANE })).toBe(1);
    }
  });

  test("a delayed child whose upstream has succeeded waits for its time", async () => {
    const submission = await submit(valkey, withTask(["a>b"], "b", { delaySeconds: 3_600 }));
    const { flowId, partition } = submission;
    const fixture = new FlowFixture(valkey, LANE, ROUTER, edition, flowId);
    const [edge] =
      planSubmission(ROUTER, withTask(["a>b"], "b", {}), flowId, "default").tasks[1]?.incoming ?? [];
    const child = idOf(submission, "b");
    await fixture.finish(ROUTER.execKeys(idOf(submission, "a")), "success");
    await fixture.done(fixture.resolution(edge ?? expect.fail("no edge"), "success"));
    const until = String((await createdAt(flowId)) + 3_600_000);
    expect(await recordOf(valkey, child, "public_state", "delay_until")).toEqual({
      public_state: "delayed",
      delay_until: until,
    });
    const { delayed } = ROUTER.indexKeys(partition).lane(LANE);
    expect(await run(valkey, partition, "zscore", delayed, child)).toBe(until);
  });

  test("no delayed root runs while the flow is incomplete, even after its delay", async () => {
    const workflow = withTask(["a>b"], "a", { delaySeconds: 1 });
    const flowId = newFlowId();
    await expect(submit(dyingBefore("ff_stage_dependency_edge"), workflow, flowId)).rejects.toThrow("died");
    const plan = planSubmission(ROUTER, workflow, flowId, "default");
    const [root] = plan.tasks;
    expect(await recordOf(valkey, root?.keys.id ?? expect.fail("no root"), "delay_until")).toEqual({
      delay_until: String(HELD_UNTIL_MS),
    });
  });

  test("a root that another submission has released keeps the delay of its retry", async () => {
    const workflow = withTask(["a>b"], "a", { delaySeconds: 3_600 });
    const flowId = newFlowId();
    let other: Promise<unknown> | undefined;
    // The other submission releases the root after this one has read that it is held; then a retry is scheduled.
    const overtaken = new InterceptedPipelines(valkey, async (_, send, commands) => {
      if (other === undefined && commands.some(({ name }) => name === "time") && commands.length === 2) {
        other = submit(valkey, workflow, flowId);
        const { partition, executions } = (await other) as Awaited<ReturnType<typeof submit>>;
        const { core } = ROUTER.execKeys(executions.get("a") ?? expect.fail("no root"));
        await run(valkey, partition, "hset", core, "delay_until", 77);
      }
      return send();
    });
    const submission = await submit(overtaken, workflow, flowId);
    expect(other).toBeDefined();
    expect(await recordOf(valkey, idOf(submission, "a"), "delay_until")).toEqual({ delay_until: "77" });
  });

  test("a client whose clock is wrong gets the same times", async () => {
    const workflow = withTask(["a>b"], "a", { delaySeconds: 600, deadline: 1_200 });
    const now = Date.now;
    try {
      Date.now = () => now() + 5 * 60_000;
      const { flowId, partition, executions } = await submit(valkey, workflow);
      const root = executions.get("a") ?? expect.fail("no root");
      const created = await createdAt(flowId);
      expect(Math.abs(created - now())).toBeLessThan(60_000);
      const { executionDeadline } = ROUTER.indexKeys(partition);
      expect(await recordOf(valkey, root, "delay_until")).toEqual({ delay_until: String(created + 600_000) });
      expect(await run(valkey, partition, "zscore", executionDeadline, root)).toBe(
        String(created + 1_200_000),
      );
    } finally {
      Date.now = now;
    }
  });

  test("executions that a later submission creates get the times of the first one", async () => {
    const workflow = withTask(["a>b"], "b", { delaySeconds: 600, deadline: 1_200 });
    const early = newFlowId();
    const dying = new InterceptedPipelines(valkey, (_, send, commands) =>
      commands.some(({ name }) => name === "multi") ? Promise.reject(new Error("the process died")) : send(),
    );
    await expect(submit(dying, workflow, early)).rejects.toThrow("died");
    await setBack(early, HOUR_MS / 10);
    const submission = await submit(valkey, workflow, early);
    const created = await createdAt(early);
    const child = idOf(submission, "b");
    const { executionDeadline } = ROUTER.indexKeys(submission.partition);
    expect(await run(valkey, submission.partition, "zscore", executionDeadline, child)).toBe(
      String(created + 1_200_000),
    );
    expect(await recordOf(valkey, child, "delay_until", "public_state")).toEqual({
      delay_until: String(created + 600_000),
      public_state: "waiting_children",
    });
  });

  test("all missed absolute deadlines of a new flow are refused together, and nothing is written", async () => {
    const flowId = newFlowId();
    const workflow = workflowOf("a>b", "c>b");
    const tasks = [
      task("a", { deadline: "2020-01-01T00:00:00Z" }),
      task("b", { deadline: "2000-01-01T00:00:00Z" }),
      task("c", { deadline: new Date(Date.now() + HOUR_MS).toISOString(), delaySeconds: 7_200 }),
    ];
    const attempt = submit(valkey, { ...workflow, tasks }, flowId);
    await expect(attempt).rejects.toMatchObject({ retryable: false });
    await expect(attempt).rejects.toThrow(
      /nothing was written:\nthe deadline 2020-01-01T00:00:00Z of task "a" has passed.*\n.*"c" is before.* 7200 s.*\n.*"b" has passed/,
    );
    expect(await snapshot(valkey, ROUTER.flowPartition(flowId))).toEqual({});
    // A repeated submission is not refused: the executions may exist, and expire.
    const early = new InterceptedPipelines(valkey, (_, send, commands) =>
      commands.some(({ args }) => args[0] === "ff_create_execution")
        ? Promise.reject(new Error("the process died"))
        : send(),
    );
    const soon = {
      ...workflow,
      tasks: workflow.tasks.map(({ id }) => task(id, { deadline: "2999-01-01T00:00:00Z" })),
    };
    await expect(submit(early, soon, flowId)).rejects.toThrow("died");
    const { executions } = await submit(
      valkey,
      { ...workflow, tasks: tasks.slice(0, 2).concat(task("c")) },
      flowId,
    );
    expect(executions.size).toBe(3);
  });

  test("a delayed child is refused on FlowFabric's library, which forgets its delay", async () => {
    const flowId = newFlowId();
    const { partition } = ROUTER.flowKeys(flowId);
    const foreign = new InterceptedPipelines(valkey, async (_, send, commands) => {
      const results = await send();
      return results.map((result, position) =>
        commands[position]?.args[0] === "sluice_revision"
          ? { ok: false, error: new Error("ERR Function not found") }
          : result,
      );
    });
    await expect(submit(foreign, withTask(["a>b"], "b", { delaySeconds: 1 }), flowId)).rejects.toThrow(
      /task "b" has dependencies and a delay.*nothing was written: remove delaySeconds/,
    );
    expect(await snapshot(valkey, partition)).toEqual({});
    expect((await valkey.pipelined([command(partition, "fcall", "no_such_function", 0)]))[0]).toMatchObject({
      error: { message: "ERR Function not found" },
    });
    await submit(foreign, withTask(["a>b"], "a", { delaySeconds: 1 }), flowId);
  });
});
