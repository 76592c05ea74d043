import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { command } from "#shared/contract/command.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { InterceptedPipelines, workflowOf } from "#test/submission/fixture.ts";
import { DIAMOND, expectWholeGraph, submit } from "#test/submission/flow-checks.ts";
import { newFlowId, ROUTER } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS, run, snapshot } from "#test/support/valkey.ts";

describe.each(DEPLOYMENTS)("a submission and other clients ($name)", ({ connect }) => {
  let valkey: Valkey;
  beforeAll(() => {
    valkey = connect();
  });
  afterAll(() => valkey.close());

  test("submitting to a flow that was cancelled half-way is refused, and nothing is written", async () => {
    const flowId = newFlowId();
    const { flow, partition } = { flow: ROUTER.flowKeys(flowId), partition: ROUTER.flowPartition(flowId) };
    const cut = new InterceptedPipelines(valkey, (call, send) =>
      call > 3 ? Promise.reject(new Error("cut off")) : send(),
    );
    await expect(submit(cut, DIAMOND, flowId)).rejects.toThrow(/it is safe to submit again/);
    await run(valkey, partition, "hset", flow.core, "public_flow_state", "cancelled");
    const before = await snapshot(valkey, partition);
    await expect(submit(valkey, DIAMOND, flowId)).rejects.toThrow(/is cancelled and contains 0 of 5/);
    expect(await snapshot(valkey, partition)).toEqual(before);
  });

  test("a flow that is cancelled during the submission is an error that another submission does not correct", async () => {
    const flowId = newFlowId();
    const { core, partition } = ROUTER.flowKeys(flowId);
    const cancelled = new InterceptedPipelines(valkey, async (_, send, commands) => {
      if (commands.some(({ args }) => args[0] === "ff_stage_dependency_edge")) {
        await run(valkey, partition, "hset", core, "public_flow_state", "cancelled");
      }
      return send();
    });
    for (const pipelines of [cancelled, valkey]) {
      const attempt = submit(pipelines, DIAMOND, flowId);
      await expect(attempt).rejects.toThrow(/flow_already_terminal.*with another flow id/);
      await expect(attempt).rejects.toMatchObject({ retryable: false });
    }
  });

  test("the roots of a flow that was cancelled before their release stay held", async () => {
    const flowId = newFlowId();
    const { core, partition } = ROUTER.flowKeys(flowId);
    const cut = new InterceptedPipelines(valkey, (_, send, commands) =>
      commands.some(({ args }) => args[0] === "ff_promote_delayed" && args[6] !== 0)
        ? Promise.reject(new Error("cut off"))
        : send(),
    );
    await expect(submit(cut, DIAMOND, flowId)).rejects.toThrow(/cut off.*safe to submit again/);
    await run(valkey, partition, "hset", core, "public_flow_state", "cancelled");
    const before = await snapshot(valkey, partition);
    const attempt = submit(valkey, DIAMOND, flowId);
    await expect(attempt).rejects.toThrow(/is cancelled: 1 of its roots were not released/);
    await expect(attempt).rejects.toMatchObject({ retryable: false });
    expect(await snapshot(valkey, partition)).toEqual(before);
  });

  test("the library of Sluice 0.1, which cannot release roots, is refused, and nothing is written", async () => {
    const flowId = newFlowId();
    // That library refuses to promote an execution that does not exist.
    const outdated = new InterceptedPipelines(valkey, async (_, send, commands) => {
      const results = await send();
      return results.map((result, position) =>
        commands[position]?.args[0] === "ff_promote_delayed"
          ? { ok: true, value: [0, "execution_not_found"] }
          : result,
      );
    });
    await expect(submit(outdated, DIAMOND, flowId)).rejects.toThrow(
      /that of Sluice 0.1.*nothing was written/,
    );
    expect(await snapshot(valkey, ROUTER.flowPartition(flowId))).toEqual({});
  });

  test("two concurrent submitters create one flow", async () => {
    const wide = workflowOf(
      ...Array.from({ length: 40 }, (_, n) => [`r${n % 5}>m${n}`, `m${n}>l${n % 7}`, `r${n % 3}>l${n % 7}`])
        .flat()
        .filter((edge, position, all) => all.indexOf(edge) === position),
    );
    const other = connect();
    try {
      for (let round = 0; round < 5; round += 1) {
        const flowId = newFlowId();
        const [first, second] = await Promise.all([
          submit(valkey, wide, flowId),
          submit(other, wide, flowId),
        ]);
        expect(second.executions).toEqual(first.executions);
        await expectWholeGraph(valkey, first, wide);
      }
    } finally {
      other.close();
    }
  });

  test("submission succeeds while another client changes the graph revision three times", async () => {
    const flowId = newFlowId();
    let changed = 0;
    const disturbed = new InterceptedPipelines(valkey, async (call, send) => {
      const results = await send();
      const { core, partition } = ROUTER.flowKeys(flowId);
      if (call % 2 === 0 && changed < 3) {
        const [bump] = await valkey.pipelined([command(partition, "exists", core)]);
        if (bump?.ok && bump.value === 1) {
          changed += 1;
          await run(valkey, partition, "hincrby", core, "graph_revision", 1);
        }
      }
      return results;
    });
    const submission = await submit(disturbed, DIAMOND, flowId);
    expect(changed).toBe(3);
    expect(await run(valkey, submission.partition, "hget", ROUTER.flowKeys(flowId).core, "edge_count")).toBe(
      "5",
    );
  });
});
