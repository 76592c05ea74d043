import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { planSubmission } from "#sdk/submission/plan.ts";
import { submitFlow } from "#sdk/submission/submit.ts";
import type { RetryPolicy, Workflow } from "#sdk/submission/workflow.ts";
import { type ClaimedExecution, claimBatch } from "#sdk/worker/claim.ts";
import { type FinishedRun, finishBatch, type RunOutcome } from "#sdk/worker/finish.ts";
import type { ClaimDependencies, WorkSource } from "#sdk/worker/leasing.ts";
import { promoteDue } from "#sdk/worker/promote.ts";
import { type Execution, workBatch } from "#sdk/worker/worker.ts";
import type { Pipelines, ValkeyCommand } from "#shared/contract/command.ts";
import { type ExecutionId, mintExecutionId, parseAttemptIndex, unwrap } from "#shared/contract/ids.ts";
import { resolveDependency } from "#shared/contract/resolve.ts";
import { createExecution } from "#shared/contract/submission.ts";
import { PublishError } from "#shared/errors.ts";
import { pauseLane, resumeLane } from "#shared/ready/paused-lanes.ts";
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

async function claimOne(deps: ClaimDependencies, source: WorkSource): Promise<ClaimedExecution> {
  const [claimed] = await claimBatch(deps, source, { limit: 1 });
  if (claimed === undefined) throw new Error("nothing was claimed");
  return claimed;
}

function identity(name: string) {
  return { workerId: name, instanceId: `${name}-1` };
}

describe.each(DEPLOYMENTS)("the worker ($name)", ({ connect }) => {
  let valkey: Valkey;
  beforeAll(() => {
    valkey = connect();
  });
  afterAll(() => valkey.close());

  /** Submits a workflow and returns what a worker needs. */
  async function fixture(workflow: Workflow) {
    const flowId = newFlowId();
    const completions = new RecordingPublisher();
    const submission = await submitFlow({ valkey, router: ROUTER, completions }, workflow, { flowId });
    const source: WorkSource = { partition: submission.partition, lane: LANE };
    const deps = { valkey, router: ROUTER, completions, identity: identity("w") };
    const id = (name: string): ExecutionId => {
      const execution = submission.executions.get(name);
      if (execution === undefined) throw new Error(`no execution for ${name}`);
      return execution;
    };
    const work = (outcome: RunOutcome, limit = 10) =>
      workBatch(deps, source, () => Promise.resolve(outcome), { limit });
    return { flowId, completions, source, deps, id, work, workflow };
  }

  const single = (retry?: RetryPolicy): Workflow => ({
    name: "single",
    tasks: [task("a", retry === undefined ? {} : { retry })],
    edges: [],
  });

  test("claims nothing in a paused lane", async () => {
    const lane = newSoloLane();
    const { source, deps } = await fixture({ ...single(), tasks: [task("a", { lane })] });
    await valkey.pipelined([pauseLane(lane, { pausedAtMs: Date.now(), actor: "test", reason: "" })]);
    const ofLane = { ...source, lane };
    expect(await claimBatch(deps, ofLane, { limit: 1 })).toEqual([]);
    await valkey.pipelined([resumeLane(lane)]);
    expect(await claimBatch(deps, ofLane, { limit: 1 })).toHaveLength(1);
  });

  test("skips an eligible execution whose record is unreadable, and works on those behind it", async () => {
    const { source, deps, id } = await fixture({
      ...single(),
      tasks: [task("broken", { priority: 9 }), task("mismatched", { priority: 8 }), task("good")],
    });
    const { core } = ROUTER.execKeys(id("broken"));
    await run(valkey, source.partition, "del", core);
    await run(valkey, source.partition, "set", core, "not a hash");
    const mismatched = new InterceptedPipelines(valkey, async (_, send, commands) => {
      const results = await send();
      return results.map((result, position) =>
        commands[position]?.args[0] === "ff_issue_claim_grant" &&
        commands[position].args.includes(id("mismatched"))
          ? { ok: true, value: [0, "capability_mismatch", "gpu"] }
          : result,
      );
    });
    const worked = await claimBatch({ ...deps, valkey: mismatched }, source, { limit: 1 });
    expect(worked.map(({ target }) => target.keys.id)).toEqual([id("good")]);
  });

  test("claims what is eligible, passes the payload, writes the result and publishes the completion", async () => {
    const { flowId, completions, source, deps, id } = await fixture(workflowOf("a>b"));
    const seen: Execution[] = [];
    const worked = await workBatch(
      deps,
      source,
      (execution) => {
        seen.push(execution);
        return Promise.resolve({ outcome: "success", result: "the result" });
      },
      { limit: 10 },
    );
    const root = id("a");
    expect(worked).toEqual([{ id: root, status: "completed" }]);
    const signal = expect.objectContaining({ aborted: false });
    expect(seen).toEqual([{ id: root, lane: "default", payload: "input of a", attemptIndex: 0, signal }]);
    expect(completions.sent).toEqual([{ executionId: root, flowId, outcome: "success", depth: 0, root }]);
    expect(await run(valkey, source.partition, "get", ROUTER.execKeys(root).result)).toBe("the result");
    expect(await recordOf(valkey, root, "lifecycle_phase", "terminal_outcome", "current_lease_id")).toEqual({
      lifecycle_phase: "terminal",
      terminal_outcome: "success",
      current_lease_id: "",
    });
    // The child stays blocked until the dispatcher resolves it.
    expect(await workBatch(deps, source, () => Promise.resolve(SUCCESS), { limit: 10 })).toEqual([]);
  });

  test("a failed run and a handler that throws are final without a retry policy", async () => {
    const { completions, source, deps, id } = await fixture({ ...workflowOf("a>c", "b>c") });
    const worked = await workBatch(
      deps,
      source,
      ({ id: execution }) =>
        execution === id("a") ? Promise.resolve(FAILURE) : Promise.reject(new Error("it threw")),
      { limit: 10 },
    );
    expect(worked.map(({ status }) => status)).toEqual(["failed", "failed"]);
    expect(new Set(completions.executionIds)).toEqual(new Set([id("a"), id("b")]));
    expect(completions.sent.map(({ outcome }) => outcome)).toEqual(["failed", "failed"]);
    const attempt = ROUTER.execKeys(id("b")).attempt(unwrap(parseAttemptIndex("0")));
    expect(await run(valkey, source.partition, "hget", attempt, "failure_reason")).toBe("it threw");
  });

  test("a failed run is retried after its backoff; only the last failure is published", async () => {
    const { completions, source, id, work, deps } = await fixture(
      single({ attempts: 2, backoff: { type: "fixed", delayMs: 0 } }),
    );
    expect(await work(FAILURE)).toEqual([{ id: id("a"), status: "retry_scheduled" }]);
    expect(completions.sent).toEqual([]);
    expect(await recordOf(valkey, id("a"), "public_state", "retry_count")).toEqual({
      public_state: "delayed",
      retry_count: "1",
    });
    expect(await work(SUCCESS)).toEqual([]);

    expect(await promoteDue({ valkey, router: ROUTER }, source)).toBe(1);
    const attempts: number[] = [];
    const again = await workBatch(
      deps,
      source,
      ({ attemptIndex }) => {
        attempts.push(attemptIndex);
        return Promise.resolve(FAILURE);
      },
      { limit: 1 },
    );
    expect(again).toEqual([{ id: id("a"), status: "failed" }]);
    expect(attempts).toEqual([1]);
    expect(completions.sent.map(({ outcome }) => outcome)).toEqual(["failed"]);
  });

  test("unreadable records at the front of the delayed executions hide none behind them", async () => {
    const { source, id, work } = await fixture({
      ...single(),
      tasks: ["first", "second", "good"].map((name) =>
        task(name, { retry: { attempts: 2, backoff: { type: "fixed", delayMs: 0 } } }),
      ),
    });
    await work(FAILURE);
    const { delayed } = ROUTER.indexKeys(source.partition).lane(source.lane);
    for (const name of ["first", "second"]) {
      const { core } = ROUTER.execKeys(id(name));
      await run(valkey, source.partition, "zadd", delayed, 1, id(name));
      await run(valkey, source.partition, "del", core);
      await run(valkey, source.partition, "set", core, "not a hash");
    }
    expect(await promoteDue({ valkey, router: ROUTER }, source, { limit: 2 })).toBe(1);
    expect(await recordOf(valkey, id("good"), "public_state")).toEqual({ public_state: "waiting" });
    expect(await promoteDue({ valkey, router: ROUTER }, source, { limit: 2 })).toBe(0);
  });

  test("entries without a record at the front of the delayed executions hide none behind them", async () => {
    const { source, id, work } = await fixture({
      ...single(),
      tasks: ["first", "second", "good"].map((name) =>
        task(name, { retry: { attempts: 2, backoff: { type: "fixed", delayMs: 0 } } }),
      ),
    });
    await work(FAILURE);
    const { delayed } = ROUTER.indexKeys(source.partition).lane(source.lane);
    for (const name of ["first", "second"]) {
      await run(valkey, source.partition, "zadd", delayed, 1, id(name));
      await run(valkey, source.partition, "del", ROUTER.execKeys(id(name)).core);
    }
    expect(await promoteDue({ valkey, router: ROUTER }, source, { limit: 2 })).toBe(1);
    expect(await run(valkey, source.partition, "zcard", delayed)).toBe(0);
  });

  test("an execution whose record is not due is not counted as promoted", async () => {
    const { source, id, work } = await fixture(
      single({ attempts: 2, backoff: { type: "fixed", delayMs: 600_000 } }),
    );
    await work(FAILURE);
    const { delayed } = ROUTER.indexKeys(source.partition).lane(source.lane);
    await run(valkey, source.partition, "zadd", delayed, 1, id("a"));
    expect(await promoteDue({ valkey, router: ROUTER }, source)).toBe(0);
    expect(await recordOf(valkey, id("a"), "public_state")).toEqual({ public_state: "delayed" });
  });

  test.each([
    { policy: '{"timeout_policy":{"attempt_timeout_ms":90000}}', timeoutMs: 90_000 },
    { policy: '{"timeout_policy":{"attempt_timeout_ms":0}}', timeoutMs: undefined },
    { policy: '{"timeout_policy":{"attempt_timeout_ms":"1000"}}', timeoutMs: undefined },
    { policy: '{"timeout_policy":null}', timeoutMs: undefined },
  ])("an attempt may run as long as the policy $policy says", async ({ policy, timeoutMs }) => {
    const { source, deps, id } = await fixture(single());
    await run(valkey, source.partition, "set", ROUTER.execKeys(id("a")).policy, policy);
    await claimOne(deps, source);
    const { attemptTimeout } = ROUTER.indexKeys(source.partition);
    const score = await run(valkey, source.partition, "zscore", attemptTimeout, id("a"));
    const { lease_acquired_at: claimedAt } = await recordOf(valkey, id("a"), "lease_acquired_at");
    expect(score === null ? undefined : Number(score) - Number(claimedAt)).toBe(timeoutMs);
  });

  test("a delayed retry is not promoted before it is due", async () => {
    const { source, work, id } = await fixture(
      single({
        attempts: 2,
        backoff: { type: "exponential", initialDelayMs: 600_000, maxDelayMs: 900_000, multiplier: 2 },
      }),
    );
    await work(FAILURE);
    expect(await promoteDue({ valkey, router: ROUTER }, source)).toBe(0);
    expect(await recordOf(valkey, id("a"), "public_state")).toEqual({ public_state: "delayed" });
  });

  test("the upstream's result becomes the downstream's payload", async () => {
    const { flowId, source, deps, id, workflow } = await fixture(workflowOf("a=>b"));
    const result = { outcome: "success", result: "from a" } as const;
    await workBatch(deps, source, () => Promise.resolve(result), { limit: 1 });
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
    await valkey.pipelined([resolveDependency(parts, { outcome: "success", completedAt: "" }, Date.now())]);
    const payloads: string[] = [];
    await workBatch(
      deps,
      source,
      ({ payload }) => {
        payloads.push(payload);
        return Promise.resolve(SUCCESS);
      },
      { limit: 1 },
    );
    expect(payloads).toEqual(["from a"]);
  });

  test("concurrent workers run each execution once", async () => {
    const many = Array.from({ length: 40 }, (_, number) => task(`t${number}`));
    const { source, completions } = await fixture({ name: "many", tasks: many, edges: [] });
    const taken: string[] = [];
    const others = [connect(), connect(), connect()];
    try {
      await Promise.all(
        others.map(async (connection, number) => {
          for (let idle = 0; idle < 3; ) {
            const worked = await workBatch(
              { valkey: connection, router: ROUTER, completions, identity: identity(`w${number}`) },
              source,
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

  test("a worker that loses the race before its grant claims nothing and raises no error", async () => {
    const { source, completions } = await fixture(single());
    let rival: Awaited<ReturnType<typeof claimBatch>> = [];
    // The rival claims after this worker read the index and before it asks for a grant.
    const overtaken = new InterceptedPipelines(valkey, async (call, send) => {
      if (call === 2)
        rival = await claimBatch(
          { valkey, router: ROUTER, completions, identity: identity("rival") },
          source,
          {
            limit: 5,
          },
        );
      return send();
    });
    expect(
      await claimBatch({ valkey: overtaken, router: ROUTER, completions, identity: identity("w") }, source, {
        limit: 5,
      }),
    ).toEqual([]);
    expect(rival).toHaveLength(1);
  });

  test("a page of unclaimable entries does not hide the work behind it", async () => {
    const many = Array.from({ length: 5 }, (_, number) => task(`t${number}`, { priority: 9 - number }));
    const { source, id, deps } = await fixture({ name: "many", tasks: many, edges: [] });
    const { eligible } = ROUTER.indexKeys(source.partition).lane(LANE);
    // Delete the records of the first four entries.
    for (let number = 0; number < 4; number += 1) {
      await run(valkey, source.partition, "del", ROUTER.execKeys(id(`t${number}`)).core);
    }
    expect(await run(valkey, source.partition, "zcard", eligible)).toBe(5);
    const claimed = await claimBatch(deps, source, {
      limit: 2,
    });
    expect(claimed.map(({ target }) => target.keys.id)).toEqual([id("t4")]);
  });

  test("the execution with the highest priority is claimed first", async () => {
    const tasks = [task("low"), task("high", { priority: 10 })];
    const { source, id, deps } = await fixture({ name: "two", tasks, edges: [] });
    const claimed = await claimBatch(deps, source, {
      limit: 1,
    });
    expect(claimed.map(({ target }) => target.keys.id)).toEqual([id("high")]);
  });

  /** Loses the replies of the n-th pipeline after the server executed it. */
  function losingReply(lost: number): Pipelines {
    return new InterceptedPipelines(valkey, async (call, send) => {
      const results = await send();
      return call === lost ? results.map(() => ({ ok: false, error: new Error("reply lost") })) : results;
    });
  }

  test.each([
    ["success", SUCCESS, "completed"],
    ["failure", FAILURE, "failed"],
  ] as const)("a %s whose reply is lost is published once", async (_, outcome, status) => {
    const { source, deps, completions, id } = await fixture(single());
    const claimed = await claimOne(deps, source);
    const worked = await finishBatch({ ...deps, valkey: losingReply(1) }, [{ claimed, run: outcome }]);
    expect(worked).toEqual([{ id: id("a"), status }]);
    expect(completions.executionIds).toEqual([id("a")]);
  });

  test("a scheduled retry whose reply is lost publishes nothing", async () => {
    const { source, deps, completions, id } = await fixture(
      single({ attempts: 4, backoff: { type: "fixed", delayMs: 60_000 } }),
    );
    const claimed = await claimOne(deps, source);
    const lossy = { ...deps, valkey: losingReply(1) };
    expect(await finishBatch(lossy, [{ claimed, run: FAILURE }])).toEqual([
      { id: id("a"), status: "retry_scheduled" },
    ]);
    expect(completions.sent).toEqual([]);
  });

  test("a call that did not reach the server is retried", async () => {
    const { source, deps, completions, id } = await fixture(single());
    const claimed = await claimOne(deps, source);
    const unreachable = new InterceptedPipelines(valkey, (call, send) =>
      call === 1 ? Promise.resolve([{ ok: false, error: new Error("not sent") }]) : send(),
    );
    const worked = await finishBatch({ ...deps, valkey: unreachable }, [{ claimed, run: SUCCESS }]);
    expect(worked).toEqual([{ id: id("a"), status: "completed" }]);
    expect(completions.executionIds).toEqual([id("a")]);
  });

  test("a claim whose reply is lost is recovered from the record", async () => {
    const { source, deps, completions, id } = await fixture(single());
    // Pipelines of a claim: the index, the grants, the claims.
    const claimed = await claimOne({ ...deps, valkey: losingReply(3) }, source);
    expect(await finishBatch(deps, [{ claimed, run: SUCCESS }])).toEqual([
      { id: id("a"), status: "completed" },
    ]);
    expect(completions.executionIds).toEqual([id("a")]);
  });

  test("a worker that lost its lease writes and publishes nothing", async () => {
    const { source, deps, completions, id } = await fixture(single());
    const claimed = await claimOne(deps, source);
    const stale = { ...claimed, lease: { ...claimed.lease, leaseId: "another", epoch: "99" } };
    expect(await finishBatch(deps, [{ claimed: stale, run: SUCCESS }])).toEqual([
      { id: id("a"), status: "lease_lost" },
    ]);
    expect(completions.sent).toEqual([]);
    expect(await recordOf(valkey, id("a"), "lifecycle_phase")).toEqual({ lifecycle_phase: "active" });
  });

  test("a completion that the queue refuses is published again; three refusals are an error", async () => {
    const first = await fixture(single());
    const refusing = (times: number) =>
      new RecordingPublisher((_, attempt) =>
        attempt > times ? { ok: true } : { ok: false, error: new PublishError("the queue is full") },
      );
    const twice = refusing(2);
    await workBatch({ ...first.deps, completions: twice }, first.source, () => Promise.resolve(SUCCESS), {
      limit: 1,
    });
    expect(twice.executionIds).toEqual([first.id("a")]);
    const second = await fixture(single());
    await expect(
      workBatch({ ...second.deps, completions: refusing(3) }, second.source, () => Promise.resolve(SUCCESS), {
        limit: 1,
      }),
    ).rejects.toThrow("the queue is full");
  });

  test("an outcome that reaches the server after its record was read is published once", async () => {
    const { source, deps, completions, id } = await fixture(single());
    const claimed = await claimOne(deps, source);
    let delayed: readonly ValkeyCommand[] = [];
    const late = new InterceptedPipelines(valkey, async (call, send, commands) => {
      if (call === 1) {
        delayed = commands;
        return commands.map(() => ({ ok: false, error: new Error("no reply") }));
      }
      const results = await send();
      if (call === 2) await valkey.pipelined(delayed);
      return results;
    });
    const worked = await finishBatch({ ...deps, valkey: late }, [{ claimed, run: SUCCESS }]);
    expect(worked).toEqual([{ id: id("a"), status: "completed" }]);
    expect(completions.executionIds).toEqual([id("a")]);
    expect(late.calls).toBe(5);
  });

  /** Drops the last result of the n-th pipeline. */
  function tooShort(short: number): Pipelines {
    return new InterceptedPipelines(valkey, async (call, send) => {
      const results = await send();
      return call === short ? results.slice(0, -1) : results;
    });
  }

  async function claimTwo(): Promise<Awaited<ReturnType<typeof fixture>> & { finished: FinishedRun[] }> {
    const two = await fixture({ name: "two", tasks: [task("a"), task("b")], edges: [] });
    const claims = await claimBatch(two.deps, two.source, { limit: 2 });
    expect(claims).toHaveLength(2);
    return { ...two, finished: claims.map((claimed) => ({ claimed, run: SUCCESS })) };
  }

  test("an outcome for which a pipeline returns no result is retried", async () => {
    const { deps, completions, finished } = await claimTwo();
    const worked = await finishBatch({ ...deps, valkey: tooShort(1) }, finished);
    expect(worked.map(({ status }) => status)).toEqual(["completed", "completed"]);
    expect(new Set(completions.executionIds)).toEqual(new Set(worked.map(({ id }) => id)));
  });

  test("an outcome without a result after the last retry is an error; the other one is published", async () => {
    const { deps, completions, finished } = await claimTwo();
    const [first, second] = finished.map(({ claimed }) => claimed.target.keys.id);
    const short = { ...deps, valkey: tooShort(1), retryDelaysMs: [] };
    await expect(finishBatch(short, finished)).rejects.toThrow(
      `could not write the outcome of ${second}: the pipeline returned no result`,
    );
    expect(completions.executionIds).toEqual([first]);
  });

  test("a flow id without a result after the last retry is an error; the other one is published", async () => {
    const { deps, completions, finished } = await claimTwo();
    const short = { ...deps, valkey: tooShort(2), retryDelaysMs: [] };
    await expect(finishBatch(short, finished)).rejects.toThrow("the pipeline returned no result");
    expect(completions.executionIds).toEqual([finished[0]?.claimed.target.keys.id]);
  });

  test("a publisher that returns too few results fails the completion without a result", async () => {
    const { deps, finished } = await claimTwo();
    const short = new RecordingPublisher();
    const send = short.send.bind(short);
    short.send = async (completions) => (await send(completions)).slice(0, -1);
    await expect(finishBatch({ ...deps, completions: short }, finished)).rejects.toThrow(
      "the publisher returned no result for a completion",
    );
    const [first, second] = finished.map(({ claimed }) => claimed.target.keys.id);
    expect(short.executionIds).toEqual([first, second, second, second]);
  });

  test("claims that a short pipeline does not answer are recovered from the record", async () => {
    const { deps, source, id } = await fixture({ name: "two", tasks: [task("a"), task("b")], edges: [] });
    // Pipelines of a claim: the index, the grants, the claims.
    const claims = await claimBatch({ ...deps, valkey: tooShort(3) }, source, { limit: 2 });
    expect(new Set(claims.map(({ target }) => target.keys.id))).toEqual(new Set([id("a"), id("b")]));
  });

  test("an execution outside any flow is completed without a completion message", async () => {
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
    expect(worked).toEqual([{ id: keys.id, status: "completed" }]);
    expect(completions.sent).toEqual([]);
  });
});
