/** Executions whose worker lost its lease: another worker takes them over, as often as their policy allows. */

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { submitFlow } from "#sdk/submission/submit.ts";
import type { Workflow } from "#sdk/submission/workflow.ts";
import { type ClaimedExecution, claimBatch } from "#sdk/worker/claim.ts";
import { finishBatch } from "#sdk/worker/finish.ts";
import type { ClaimDependencies } from "#sdk/worker/leasing.ts";
import { workBatch } from "#sdk/worker/worker.ts";
import type { Pipelines } from "#shared/contract/command.ts";
import type { ExecutionId, LaneId } from "#shared/contract/ids.ts";
import { parseLaneId, unwrap } from "#shared/contract/ids.ts";
import type { Target } from "#shared/contract/ownership.ts";
import { markLeaseExpiredIfDue, revokeLease } from "#shared/contract/upkeep.ts";
import { PublishError } from "#shared/errors.ts";
import { doneOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { InterceptedPipelines, LANE, RecordingPublisher, recordOf, task } from "#test/submission/fixture.ts";
import { newFlowId, ROUTER } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS_OF_BOTH, run } from "#test/support/valkey.ts";

const OTHER_LANE = unwrap(parseLaneId("other"));
const SUCCESS = { outcome: "success", result: "done" } as const;
const DEAD = { workerId: "dead", instanceId: "dead-1" };
const LIVING = { workerId: "living", instanceId: "living-1" };

describe.each(DEPLOYMENTS_OF_BOTH)("interrupted executions ($name, edition $edition)", ({ connect }) => {
  let valkey: Valkey;
  beforeAll(() => {
    valkey = connect();
  });
  afterAll(() => valkey.close());

  async function fixture(tasks: Workflow["tasks"] = [task("a")]) {
    const flowId = newFlowId();
    const completions = new RecordingPublisher();
    const workflow = { name: "interrupted", tasks, edges: [] };
    const { partition, executions } = await submitFlow({ valkey, router: ROUTER, completions }, workflow, {
      flowId,
    });
    const deps = { valkey, router: ROUTER, completions, identity: LIVING };
    const id = (name: string): ExecutionId => {
      const execution = executions.get(name);
      if (execution === undefined) throw new Error(`no execution for ${name}`);
      return execution;
    };
    const sourceOf = (lane: LaneId) => ({ partition, lane });
    const source = sourceOf(LANE);
    return { flowId, completions, deps, source, sourceOf, id, partition };
  }

  /** Claims like a worker that dies at once, and waits until the leases are marked as expired. */
  async function interrupt(
    { deps, sourceOf }: Awaited<ReturnType<typeof fixture>>,
    { limit = 1, lane = LANE }: { readonly limit?: number; readonly lane?: LaneId } = {},
  ): Promise<ClaimedExecution[]> {
    const claims = await claimBatch({ ...deps, identity: DEAD }, sourceOf(lane), { limit, leaseTtlMs: 1 });
    expect(claims).toHaveLength(limit);
    for (const { target } of claims) while ((await mark(target)) !== "marked_expired");
    return claims;
  }

  async function mark(target: Target): Promise<string | undefined> {
    const [reply] = await valkey.pipelined([markLeaseExpiredIfDue(target)]);
    return doneOrThrow("ff_mark_lease_expired_if_due", valueOrThrow(reply)).fields[0];
  }

  /** Loses the reply of the n-th pipeline after the server executed it. */
  function losingReply(lost: number): Pipelines {
    return new InterceptedPipelines(valkey, async (call, send) => {
      const results = await send();
      return call === lost ? results.map(() => ({ ok: false, error: new Error("reply lost") })) : results;
    });
  }

  test("another worker runs it again as a new attempt; the first worker's report is refused", async () => {
    const flow = await fixture();
    const [first] = await interrupt(flow);
    if (first === undefined) throw new Error("nothing was claimed");
    const attempts: number[] = [];
    const worked = await workBatch(
      flow.deps,
      flow.source,
      async ({ attemptIndex, payload }) => {
        attempts.push(attemptIndex);
        expect(payload).toBe("input of a");
        const late = { ...flow.deps, identity: DEAD };
        expect(await finishBatch(late, [{ claimed: first, run: SUCCESS }])).toEqual([
          { id: flow.id("a"), status: "lease_lost" },
        ]);
        return SUCCESS;
      },
      { limit: 5 },
    );
    expect(worked).toEqual([{ id: flow.id("a"), status: "completed" }]);
    expect(attempts).toEqual([1]);
    expect(flow.completions.executionIds).toEqual([flow.id("a")]);
    expect(await recordOf(valkey, flow.id("a"), "lease_reclaim_count", "public_state")).toEqual({
      lease_reclaim_count: "1",
      public_state: "completed",
    });
  });

  test("an expired lease that is not marked is left to its worker", async () => {
    const { deps, source } = await fixture();
    await claimBatch(deps, source, { limit: 1, leaseTtlMs: 1 });
    const index = ROUTER.indexKeys(source.partition);
    const isDue = async () =>
      Number(await run(valkey, source.partition, "zcount", index.leaseExpiry, 0, Date.now())) === 1;
    while (!(await isDue()));
    expect(await claimBatch(deps, source, { limit: 1 })).toEqual([]);
  });

  test("a revoked lease is found without an entry in lease_expiry", async () => {
    const flow = await fixture();
    const [claimed] = await claimBatch({ ...flow.deps, identity: DEAD }, flow.source, { limit: 1 });
    if (claimed === undefined) throw new Error("nothing was claimed");
    await valkey.pipelined([revokeLease(claimed.target, DEAD.instanceId, "", "test")]);
    const again = await claimBatch(flow.deps, flow.source, { limit: 1 });
    expect(again.map(({ target }) => target.keys.id)).toEqual([flow.id("a")]);
    expect(again[0]?.lease.epoch).toBe("2");
  });

  test("interrupted executions of other lanes hide none of this one, and stay where they are", async () => {
    const others = Array.from({ length: 120 }, (_, number) => task(`other ${number}`, { lane: OTHER_LANE }));
    const flow = await fixture([...others, task("a")]);
    await interrupt(flow, { limit: 120, lane: OTHER_LANE });
    const [claimed] = await interrupt(flow);
    const again = await claimBatch(flow.deps, flow.source, { limit: 5 });
    expect(again.map(({ target }) => target.keys.id)).toEqual([claimed?.target.keys.id]);
    const { leaseExpiry } = ROUTER.indexKeys(flow.partition);
    expect(await run(valkey, flow.partition, "zcount", leaseExpiry, 0, Date.now())).toBe(120);
  });

  test("interrupted executions come first, in batches of their own", async () => {
    const flow = await fixture(["a", "b", "c"].map((name) => task(name)));
    const claimed = await interrupt(flow, { limit: 2 });
    const ids = (batch: readonly ClaimedExecution[]) => batch.map(({ target }) => target.keys.id).toSorted();
    expect(ids(await claimBatch(flow.deps, flow.source, { limit: 5 }))).toEqual(ids(claimed));
    expect(ids(await claimBatch(flow.deps, flow.source, { limit: 5 }))).toHaveLength(1);
  });

  test("an execution that was reclaimed before runs alone, after those that were not", async () => {
    const flow = await fixture(["a", "b", "c"].map((name) => task(name)));
    const both = (await interrupt(flow, { limit: 2 })).map(({ target }) => target.keys.id);
    await interrupt(flow, { limit: 2 });
    const [other] = await interrupt(flow, { limit: 1 });
    // One of the first two is interrupted for the third time, and the last task was never claimed.
    const third = other?.target.keys.id;
    expect(both).toContain(third);
    const sizes: number[] = [];
    for (let round = 0; round < 3; round += 1) {
      sizes.push((await claimBatch(flow.deps, flow.source, { limit: 5 })).length);
    }
    expect(sizes).toEqual([1, 1, 1]);
  });

  test("two workers that reclaim at the same time run it once", async () => {
    const flow = await fixture(Array.from({ length: 20 }, (_, number) => task(`t${number}`)));
    await interrupt(flow, { limit: 20 });
    const workers = [connect(), connect()];
    const claims = await Promise.all(
      workers.map((own, number) =>
        claimBatch(
          { ...flow.deps, valkey: own, identity: { workerId: `w${number}`, instanceId: `w${number}` } },
          flow.source,
          { limit: 20 },
        ),
      ),
    );
    for (const own of workers) own.close();
    const ids = claims.flat().map(({ target }) => target.keys.id);
    expect(ids).toHaveLength(20);
    expect(new Set(ids).size).toBe(20);
  });

  async function interruptOften(flow: Awaited<ReturnType<typeof fixture>>, times: number): Promise<void> {
    for (let time = 0; time < times; time += 1) await interrupt(flow);
  }

  test("the fifth reclaim is the last: then the execution has failed, and its completion is published", async () => {
    const flow = await fixture();
    await interruptOften(flow, 6);
    expect(await claimBatch(flow.deps, flow.source, { limit: 1 })).toEqual([]);
    expect(flow.completions.sent).toEqual([
      expect.objectContaining({ executionId: flow.id("a"), flowId: flow.flowId, outcome: "failed" }),
    ]);
    expect(await recordOf(valkey, flow.id("a"), "public_state", "failure_reason")).toEqual({
      public_state: "failed",
      failure_reason: "max_reclaims_exceeded",
    });
  });

  async function limitedTo(limit: number) {
    const flow = await fixture();
    const policy = JSON.stringify({ max_reclaim_count: limit });
    await run(valkey, flow.partition, "set", ROUTER.execKeys(flow.id("a")).policy, policy);
    await interrupt(flow);
    return flow;
  }

  test("the limit of the policy wins", async () => {
    const flow = await limitedTo(0);
    expect(await claimBatch(flow.deps, flow.source, { limit: 1 })).toEqual([]);
    expect(flow.completions.executionIds).toEqual([flow.id("a")]);
  });

  // Pipelines of a reclaim: the indexes, the lookups, the records, the grants, the reclaims.
  test("a reclaim whose reply is lost is recovered from the record", async () => {
    const flow = await fixture();
    await interrupt(flow);
    const again = await claimBatch({ ...flow.deps, valkey: losingReply(5) }, flow.source, { limit: 1 });
    expect(again.map(({ lease }) => lease.attemptIndex)).toEqual([1]);
    expect(
      await finishBatch(
        flow.deps,
        again.map((claimed) => ({ claimed, run: SUCCESS })),
      ),
    ).toEqual([{ id: flow.id("a"), status: "completed" }]);
  });

  test("a reached limit whose reply is lost is published", async () => {
    const flow = await limitedTo(0);
    const lossy = { ...flow.deps, valkey: losingReply(5) };
    expect(await claimBatch(lossy, flow.source, { limit: 1 })).toEqual([]);
    expect(flow.completions.executionIds).toEqual([flow.id("a")]);
  });

  test("a completion that is refused is an error only if nothing was reclaimed", async () => {
    const refusing = new RecordingPublisher(() => ({ ok: false, error: new PublishError("full") }));
    const alone = await limitedTo(0);
    await expect(
      claimBatch({ ...alone.deps, completions: refusing }, alone.source, { limit: 1 }),
    ).rejects.toThrow("full");
    const flow = await fixture([task("a"), task("b")]);
    await run(
      valkey,
      flow.partition,
      "set",
      ROUTER.execKeys(flow.id("a")).policy,
      JSON.stringify({ max_reclaim_count: 0 }),
    );
    await interrupt(flow, { limit: 2 });
    const deps: ClaimDependencies = { ...flow.deps, completions: refusing };
    const again = await claimBatch(deps, flow.source, { limit: 2 });
    expect(again.map(({ target }) => target.keys.id)).toEqual([flow.id("b")]);
  });

  test("a record that cannot be read hides none behind it", async () => {
    const flow = await fixture(["broken", "good"].map((name) => task(name)));
    await interrupt(flow, { limit: 2 });
    const { core } = ROUTER.execKeys(flow.id("broken"));
    await run(valkey, flow.partition, "del", core);
    await run(valkey, flow.partition, "set", core, "not a hash");
    const again = await claimBatch(flow.deps, flow.source, { limit: 1 });
    expect(again.map(({ target }) => target.keys.id)).toEqual([flow.id("good")]);
  });

  test("a worker without the required capabilities reclaims nothing", async () => {
    const flow = await fixture();
    await interrupt(flow);
    await run(
      valkey,
      flow.partition,
      "hset",
      ROUTER.execKeys(flow.id("a")).core,
      "required_capabilities",
      "gpu",
    );
    expect(await claimBatch(flow.deps, flow.source, { limit: 1 })).toEqual([]);
    const capable = { ...flow.deps, identity: { ...LIVING, capabilities: ["gpu"] } };
    expect(await claimBatch(capable, flow.source, { limit: 1 })).toHaveLength(1);
  });
});
