/** What tells a half-submitted flow from a complete one, and the lanes that a submission records. */

import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ReplicatedValkey } from "#sdk/replicated-valkey.ts";
import { command, type ValkeyResult } from "#shared/contract/command.ts";
import type { FlowId } from "#shared/contract/ids.ts";
import { parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { LANES_KEY } from "#shared/contract/keys.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { InterceptedPipelines, task, workflowOf } from "#test/submission/fixture.ts";
import { DIAMOND, submit } from "#test/submission/flow-checks.ts";
import { newFlowId, ROUTER } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS_OF_BOTH, fieldsOf, run, snapshot } from "#test/support/valkey.ts";

describe.each(DEPLOYMENTS_OF_BOTH)("the record of a flow ($name, $edition KEYS)", ({ connect }) => {
  let valkey: Valkey;
  beforeAll(() => {
    valkey = connect();
  });
  afterAll(() => valkey.close());

  const coreOf = async (flowId: FlowId) => {
    const { core, partition } = ROUTER.flowKeys(flowId);
    return fieldsOf(await run(valkey, partition, "hgetall", core));
  };

  test("says what was submitted, and when the submission was complete", async () => {
    const flowId = newFlowId();
    await submit(valkey, DIAMOND, flowId);
    const core = await coreOf(flowId);
    expect(core).toMatchObject({ workflow_name: "test", submission_tasks: "5" });
    const { created_at, submission_completed_at } = core;
    expect(Number(submission_completed_at)).toBeGreaterThanOrEqual(Number(created_at));
    expect(Number(submission_completed_at)).toBeLessThan(Number(created_at) + 60_000);
  });

  test("is listed by its creation time, also if the library does not list it", async () => {
    const flowId = newFlowId();
    const { partition } = ROUTER.flowKeys(flowId);
    const { flowsCreated } = ROUTER.indexKeys(partition);
    // As with FlowFabric's library: its ff_create_flow leaves no entry.
    const original = new InterceptedPipelines(valkey, async (_, send, commands) => {
      const [create, ...rest] = commands;
      if (create?.args[0] !== "ff_create_flow") return send();
      const unlist = command(partition, "zrem", flowsCreated, flowId);
      const [created, removed] = await valkey.pipelined([create, unlist]);
      expect(removed).toEqual({ ok: true, value: 1 });
      return [created as ValkeyResult, ...(await valkey.pipelined(rest))];
    });
    await submit(original, DIAMOND, flowId);
    const { created_at } = await coreOf(flowId);
    expect(await run(valkey, partition, "zscore", flowsCreated, flowId)).toBe(created_at);
  });

  test("is that of a half-submitted flow after a submission that was cut off before any call", async () => {
    const counter = new InterceptedPipelines(valkey, (_, send) => send());
    await submit(counter, DIAMOND);
    expect(counter.calls).toBeGreaterThan(7);
    for (let cut = 1; cut <= counter.calls; cut += 1) {
      const flowId = newFlowId();
      const dying = new InterceptedPipelines(valkey, (call, send) =>
        call < cut ? send() : Promise.reject(new Error("the process died")),
      );
      await expect(submit(dying, DIAMOND, flowId)).rejects.toThrow("died");
      const core = await coreOf(flowId);
      expect(core).not.toHaveProperty("submission_completed_at");
      if (core.flow_id !== undefined) {
        expect(core).toMatchObject({ workflow_name: "test", submission_tasks: "5" });
      }
      await submit(valkey, DIAMOND, flowId);
      expect(await coreOf(flowId)).toHaveProperty("submission_completed_at");
    }
  });

  test("gets the marks that an earlier submission did not write, and keeps those that it wrote", async () => {
    const flowId = newFlowId();
    await submit(valkey, DIAMOND, flowId);
    const { core, partition } = ROUTER.flowKeys(flowId);
    await run(valkey, partition, "hdel", core, "submission_tasks", "submission_completed_at");
    await run(valkey, partition, "hset", core, "workflow_name", "earlier");
    await submit(valkey, DIAMOND, flowId);
    const marked = await coreOf(flowId);
    expect(marked).toMatchObject({ workflow_name: "earlier", submission_tasks: "5" });
    expect(marked).toHaveProperty("submission_completed_at");
  });

  test("does not exist again if the flow was deleted during the submission", async () => {
    const flowId = newFlowId();
    const { core, partition } = ROUTER.flowKeys(flowId);
    const counter = new InterceptedPipelines(valkey, (_, send) => send());
    await submit(counter, DIAMOND);
    const deleted = new InterceptedPipelines(valkey, async (call, send) => {
      if (call === counter.calls) await run(valkey, partition, "del", core);
      return send();
    });
    await submit(deleted, DIAMOND, flowId);
    expect(await coreOf(flowId)).toEqual({});
  });

  test("a flow that has been purged is refused, and nothing is written", async () => {
    const flowId = newFlowId();
    const { purged, partition } = ROUTER.flowKeys(flowId);
    await run(valkey, partition, "set", purged, "1");
    const before = await snapshot(valkey, partition);
    const attempt = submit(valkey, DIAMOND, flowId);
    await expect(attempt).rejects.toThrow(/has ended and was deleted; nothing was written/);
    await expect(attempt).rejects.toMatchObject({ retryable: false });
    expect(await snapshot(valkey, partition)).toEqual(before);
  });

  test("the lanes are recorded before anything else, also through a connection that waits for replicas", async () => {
    const newLane = () => unwrap(parseLaneId(`lane ${randomUUID()}`));
    const lanes = [newLane(), newLane()] as const;
    const workflow = {
      ...workflowOf("a>b"),
      tasks: [task("a", { lane: lanes[0] }), task("b", { lane: lanes[1] })],
    };
    const flowId = newFlowId();
    const recorded = () => valkey.call("smismember", LANES_KEY, ...lanes);
    let callsWithLanes = 0;
    const replicated = new ReplicatedValkey(connect, { waitReplicas: 0 });
    const dying = new InterceptedPipelines(replicated, async (_, send, commands) => {
      if (commands.some(({ args }) => args[0] === LANES_KEY)) callsWithLanes += 1;
      if (!commands.some(({ args }) => args[0] === "ff_create_flow")) return send();
      throw new Error("the process died");
    });
    try {
      expect(await recorded()).toEqual([0, 0]);
      await expect(submit(dying, workflow, flowId)).rejects.toThrow("died");
      expect(callsWithLanes).toBe(1);
      expect(await recorded()).toEqual([1, 1]);
      expect(await snapshot(valkey, ROUTER.flowPartition(flowId))).toEqual({});
    } finally {
      replicated.close();
      await valkey.call("srem", LANES_KEY, ...lanes);
    }
  });
});
