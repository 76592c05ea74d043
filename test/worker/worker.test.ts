import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { planSubmission } from "#sdk/submission/plan.ts";
import { submitFlow } from "#sdk/submission/submit.ts";
import type { RetryPolicy, Workflow } from "#sdk/submission/workflow.ts";
import { claimBatch, type WorkSource } from "#sdk/worker/claim.ts";
import { finishBatch, type RunOutcome } from "#sdk/worker/finish.ts";
import { promoteDue } from "#sdk/worker/promote.ts";
import { type Execution, workBatch } from "#sdk/worker/worker.ts";
import type { Pipelines } from "#shared/contract/command.ts";
import { type ExecutionId, mintExecutionId, parseAttemptIndex, unwrap } from "#shared/contract/ids.ts";
import { resolveDependency } from "#shared/contract/resolve.ts";
import { createExecution } from "#shared/contract/submission.ts";
import { PublishError } from "#shared/errors.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import {
  InterceptedPipelines,
  LANE,
  RecordingPublisher,
  recordOf,
  task,
  workflowOf,
} from "#test/submission/fixture.ts";
import { newFlowId, newSoloLane, ROUTER } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS, run } from "#test/support/valkey.ts";

const SUCCESS: RunOutcome = { outcome: "success", result: "" };
const FAILURE: RunOutcome = { outcome: "failed", reason: "it broke" };

function identity(name: string) {
  return { workerId: name, instanceId: `${name}-1` };
}

describe.each(DEPLOYMENTS)("the worker ($name)", ({ connect }) => {
  let valkey: Valkey;
  beforeAll(() => {
    valkey = connect();
  });
  afterAll(() => valkey.close());

  /** Submits a workflow, and gives what is needed to work on it. */
  async function fixture(workflow: Workflow) {
    const flowId = newFlowId();
    const completions = new RecordingPublisher();
    const submission = await submitFlow({ valkey, router: ROUTER, completions }, workflow, { flowId });
    const place: WorkSource = { partition: submission.partition, lane: LANE };
    const deps = { valkey, router: ROUTER, completions, identity: identity("w") };
    const id = (name: string): ExecutionId => {
      const execution = submission.executions.get(name);
      if (execution === undefined) throw new Error(`no execution for ${name}`);
      return execution;
    };
    const work = (outcome: RunOutcome, limit = 10) =>
      workBatch(deps, place, () => Promise.resolve(outcome), { limit });
    return { flowId, completions, place, deps, id, work, workflow };
  }

  const single = (retryPolicy?: RetryPolicy): Workflow => ({
    name: "single",
    tasks: [task("a", retryPolicy === undefined ? {} : { retryPolicy })],
    edges: [],
  });

  test("takes what is eligible, passes the payload, writes the result and sends the completion", async () => {
    const { flowId, completions, place, deps, id } = await fixture(workflowOf("a>b"));
    const seen: Execution[] = [];
    const worked = await workBatch(
      deps,
      place,
      (execution) => {
        seen.push(execution);
        return Promise.resolve({ outcome: "success", result: "the result" });
      },
      { limit: 10 },
    );
    const root = id("a");
    expect(worked).toEqual([{ id: root, conclusion: "completed" }]);
    expect(seen).toEqual([{ id: root, lane: "default", payload: "input of a", attemptIndex: 0 }]);
    expect(completions.sent).toEqual([{ executionId: root, flowId, outcome: "success", depth: 0, root }]);
    expect(await run(valkey, place.partition, "get", ROUTER.execKeys(root).result)).toBe("the result");
    expect(await recordOf(valkey, root, "lifecycle_phase", "terminal_outcome", "current_lease_id")).toEqual({
      lifecycle_phase: "terminal",
      terminal_outcome: "success",
      current_lease_id: "",
    });
    // The child stays blocked: to resolve it is the dispatcher's part.
    expect(await workBatch(deps, place, () => Promise.resolve(SUCCESS), { limit: 10 })).toEqual([]);
  });

  test("a failure without retries is final, and so is a run that throws", async () => {
    const { completions, place, deps, id } = await fixture({ ...workflowOf("a>c", "b>c") });
    const worked = await workBatch(
      deps,
      place,
      ({ id: execution }) =>
        execution === id("a") ? Promise.resolve(FAILURE) : Promise.reject(new Error("it threw")),
      { limit: 10 },
    );
    expect(worked.map(({ conclusion }) => conclusion)).toEqual(["failed", "failed"]);
    expect(new Set(completions.executionIds)).toEqual(new Set([id("a"), id("b")]));
    expect(completions.sent.map(({ outcome }) => outcome)).toEqual(["failed", "failed"]);
    const attempt = ROUTER.execKeys(id("b")).attempt(unwrap(parseAttemptIndex("0")));
    expect(await run(valkey, place.partition, "hget", attempt, "failure_reason")).toBe("it threw");
  });

  test("a failure is retried after its backoff, and told of only when no retry is left", async () => {
    const { completions, place, id, work, deps } = await fixture(
      single({ maxRetries: 1, backoff: { type: "fixed", delayMs: 0 } }),
    );
    expect(await work(FAILURE)).toEqual([{ id: id("a"), conclusion: "retry_scheduled" }]);
    expect(completions.sent).toEqual([]);
    expect(await recordOf(valkey, id("a"), "public_state", "retry_count")).toEqual({
      public_state: "delayed",
      retry_count: "1",
    });
    expect(await work(SUCCESS)).toEqual([]);

    expect(await promoteDue({ valkey, router: ROUTER }, place, { nowMs: Date.now() + 1_000 })).toBe(1);
    const attempts: number[] = [];
    const again = await workBatch(
      deps,
      place,
      ({ attemptIndex }) => {
        attempts.push(attemptIndex);
        return Promise.resolve(FAILURE);
      },
      { limit: 1 },
    );
    expect(again).toEqual([{ id: id("a"), conclusion: "failed" }]);
    expect(attempts).toEqual([1]);
    expect(completions.sent.map(({ outcome }) => outcome)).toEqual(["failed"]);
  });

  test("a retry that is not due yet is not promoted", async () => {
    const { place, work, id } = await fixture(
      single({
        maxRetries: 1,
        backoff: { type: "exponential", initialDelayMs: 600_000, maxDelayMs: 900_000, multiplier: 2 },
      }),
    );
    await work(FAILURE);
    expect(await promoteDue({ valkey, router: ROUTER }, place)).toBe(0);
    expect(await promoteDue({ valkey, router: ROUTER }, place, { nowMs: Date.now() + 1_200_000 })).toBe(0);
    expect(await recordOf(valkey, id("a"), "public_state")).toEqual({ public_state: "delayed" });
  });

  test("the upstream's result becomes the downstream's payload", async () => {
    const { flowId, place, deps, id, workflow } = await fixture(workflowOf("a=>b"));
    const result = { outcome: "success", result: "from a" } as const;
    await workBatch(deps, place, () => Promise.resolve(result), { limit: 1 });
    const plan = planSubmission(ROUTER, workflow, flowId, "default");
    const [passing] = plan.tasks.flatMap(({ outgoing }) => outgoing);
    if (passing === undefined) throw new Error("no edge");
    const parts = {
      edge: passing.edge.id,
      upstream: id("a"),
      flow: plan.flow,
      flowIndex: plan.index,
      child: passing.child,
      lane: plan.index.lane(LANE),
      attempt: unwrap(parseAttemptIndex("")),
    };
    await valkey.pipelined([resolveDependency(11, parts, "success", Date.now())]);
    const payloads: string[] = [];
    await workBatch(
      deps,
      place,
      ({ payload }) => {
        payloads.push(payload);
        return Promise.resolve(SUCCESS);
      },
      { limit: 1 },
    );
    expect(payloads).toEqual(["from a"]);
  });

  test("workers at once take each execution once", async () => {
    const many = Array.from({ length: 40 }, (_, number) => task(`t${number}`));
    const { place, completions } = await fixture({ name: "many", tasks: many, edges: [] });
    const taken: string[] = [];
    const others = [connect(), connect(), connect()];
    try {
      await Promise.all(
        others.map(async (connection, number) => {
          for (let idle = 0; idle < 3; ) {
            const worked = await workBatch(
              { valkey: connection, router: ROUTER, completions, identity: identity(`w${number}`) },
              place,
              ({ id }) => {
                taken.push(id);
                return Promise.resolve(SUCCESS);
              },
              { limit: 7 },
            );
            idle = worked.length === 0 ? idle + 1 : 0;
          }
        }),
      );
    } finally {
      for (const connection of others) connection.close();
    }
    expect(taken).toHaveLength(40);
    expect(new Set(taken).size).toBe(40);
    expect(new Set(completions.executionIds).size).toBe(40);
  });

  test("a race that is lost between the grant and the claim is no error", async () => {
    const { place } = await fixture(single());
    let rival: Awaited<ReturnType<typeof claimBatch>> = [];
    // The rival comes when this worker has read the index and has no grant yet.
    const overtaken = new InterceptedPipelines(valkey, async (call, send) => {
      if (call === 2)
        rival = await claimBatch({ valkey, router: ROUTER, identity: identity("rival") }, place, {
          limit: 5,
        });
      return send();
    });
    expect(
      await claimBatch({ valkey: overtaken, router: ROUTER, identity: identity("w") }, place, { limit: 5 }),
    ).toEqual([]);
    expect(rival).toHaveLength(1);
  });

  test("entries that others hold do not hide the work behind them", async () => {
    const many = Array.from({ length: 5 }, (_, number) => task(`t${number}`, { priority: 9 - number }));
    const { place, id } = await fixture({ name: "many", tasks: many, edges: [] });
    const { eligible } = ROUTER.indexKeys(place.partition).lane(LANE);
    // Records that are gone, at the head of the index.
    for (let number = 0; number < 4; number += 1) {
      await run(valkey, place.partition, "del", ROUTER.execKeys(id(`t${number}`)).core);
    }
    expect(await run(valkey, place.partition, "zcard", eligible)).toBe(5);
    const claimed = await claimBatch({ valkey, router: ROUTER, identity: identity("w") }, place, {
      limit: 2,
    });
    expect(claimed.map(({ target }) => target.keys.id)).toEqual([id("t4")]);
  });

  test("a higher priority goes first", async () => {
    const tasks = [task("low"), task("high", { priority: 10 })];
    const { place, id } = await fixture({ name: "two", tasks, edges: [] });
    const claimed = await claimBatch({ valkey, router: ROUTER, identity: identity("w") }, place, {
      limit: 1,
    });
    expect(claimed.map(({ target }) => target.keys.id)).toEqual([id("high")]);
  });

  /** Loses the reply of the n-th pipeline, after the server has done it. */
  function losingReply(lost: number): Pipelines {
    return new InterceptedPipelines(valkey, async (call, send) => {
      const results = await send();
      return call === lost ? results.map(() => ({ ok: false, error: new Error("reply lost") })) : results;
    });
  }

  test.each([
    ["success", SUCCESS, "completed"],
    ["failure", FAILURE, "failed"],
  ] as const)(
    "a %s whose reply is lost is told of once, and written once",
    async (_, outcome, conclusion) => {
      const { place, deps, completions, id } = await fixture(single());
      const [claimed] = await claimBatch(deps, place, { limit: 1 });
      if (claimed === undefined) throw new Error("nothing claimed");
      const conclusions = await finishBatch({ ...deps, valkey: losingReply(1) }, [{ claimed, run: outcome }]);
      expect(conclusions).toEqual([conclusion]);
      expect(completions.executionIds).toEqual([id("a")]);
    },
  );

  test("a retry whose reply is lost is told of to nobody", async () => {
    const { place, deps, completions } = await fixture(
      single({ maxRetries: 3, backoff: { type: "fixed", delayMs: 60_000 } }),
    );
    const [claimed] = await claimBatch(deps, place, { limit: 1 });
    if (claimed === undefined) throw new Error("nothing claimed");
    const lossy = { ...deps, valkey: losingReply(1) };
    expect(await finishBatch(lossy, [{ claimed, run: FAILURE }])).toEqual(["retry_scheduled"]);
    expect(completions.sent).toEqual([]);
  });

  test("a call that never reached the server is made again", async () => {
    const { place, deps, completions, id } = await fixture(single());
    const [claimed] = await claimBatch(deps, place, { limit: 1 });
    if (claimed === undefined) throw new Error("nothing claimed");
    const unreachable = new InterceptedPipelines(valkey, (call, send) =>
      call === 1 ? Promise.resolve([{ ok: false, error: new Error("not sent") }]) : send(),
    );
    const conclusions = await finishBatch({ ...deps, valkey: unreachable }, [{ claimed, run: SUCCESS }]);
    expect(conclusions).toEqual(["completed"]);
    expect(completions.executionIds).toEqual([id("a")]);
  });

  test("a claim whose reply is lost is found in the record", async () => {
    const { place, deps, completions, id } = await fixture(single());
    // Pipelines of a claim: the index, the grants, the claims.
    const [claimed] = await claimBatch({ ...deps, valkey: losingReply(3) }, place, { limit: 1 });
    if (claimed === undefined) throw new Error("nothing claimed");
    expect(await finishBatch(deps, [{ claimed, run: SUCCESS }])).toEqual(["completed"]);
    expect(completions.executionIds).toEqual([id("a")]);
  });

  test("who has lost the lease writes nothing and tells nobody", async () => {
    const { place, deps, completions, id } = await fixture(single());
    const [claimed] = await claimBatch(deps, place, { limit: 1 });
    if (claimed === undefined) throw new Error("nothing claimed");
    const stale = { ...claimed, lease: { ...claimed.lease, leaseId: "another", epoch: "99" } };
    expect(await finishBatch(deps, [{ claimed: stale, run: SUCCESS }])).toEqual(["lost"]);
    expect(completions.sent).toEqual([]);
    expect(await recordOf(valkey, id("a"), "lifecycle_phase")).toEqual({ lifecycle_phase: "active" });
  });

  test("a completion that the queue refuses is sent again; three refusals are an error", async () => {
    const first = await fixture(single());
    const refusing = (times: number) =>
      new RecordingPublisher((_, attempt) =>
        attempt > times ? { ok: true } : { ok: false, error: new PublishError("the queue is full") },
      );
    const twice = refusing(2);
    await workBatch({ ...first.deps, completions: twice }, first.place, () => Promise.resolve(SUCCESS), {
      limit: 1,
    });
    expect(twice.executionIds).toEqual([first.id("a")]);
    const second = await fixture(single());
    await expect(
      workBatch({ ...second.deps, completions: refusing(3) }, second.place, () => Promise.resolve(SUCCESS), {
        limit: 1,
      }),
    ).rejects.toThrow("the queue is full");
  });

  test("an execution outside any flow is finished and told of to nobody", async () => {
    const lane = newSoloLane();
    const partition = ROUTER.soloPartition(lane);
    const keys = ROUTER.execKeys(unwrap(mintExecutionId(partition, newFlowId())));
    const [created] = await valkey.pipelined([
      createExecution({
        keys,
        index: ROUTER.indexKeys(partition),
        namespace: "tests",
        lane,
        kind: "task",
        priority: 0,
        creator: "tests",
        policyJson: "",
        payload: "",
      }),
    ]);
    expect(created?.ok).toBe(true);
    const completions = new RecordingPublisher();
    const deps = { valkey, router: ROUTER, completions, identity: identity("w") };
    const worked = await workBatch(deps, { partition, lane }, () => Promise.resolve(SUCCESS), { limit: 1 });
    expect(worked).toEqual([{ id: keys.id, conclusion: "completed" }]);
    expect(completions.sent).toEqual([]);
  });
});
