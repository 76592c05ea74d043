import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startValkey, startValkeyCluster, type ValkeyServer } from "#local/valkey-server.ts";
import { planSubmission } from "#sdk/submission/plan.ts";
import { submitFlow } from "#sdk/submission/submit.ts";
import type { Workflow } from "#sdk/submission/workflow.ts";
import type { Pipelines } from "#shared/contract/command.ts";
import type { FlowId } from "#shared/contract/ids.ts";
import { stageDependencyEdge } from "#shared/contract/submission.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { InterceptedPipelines, RecordingPublisher, workflowOf } from "#test/submission/fixture.ts";
import { FLOWFABRIC_LIMIT, limitedLibrarySource } from "#test/submission/limited-search.ts";
import { newFlowId, ROUTER } from "#test/support/flow-fixture.ts";
import { connectTo, onEveryPrimary, run } from "#test/support/valkey.ts";

const hub = (leaves: number) =>
  workflowOf("root>hub", "other>hub", ...Array.from({ length: leaves }, (_, number) => `hub>leaf${number}`));
const chain = (edges: number) =>
  workflowOf(...Array.from({ length: edges }, (_, number) => `t${number}>t${number + 1}`));

const SMALL_LIMIT = 10;

// These tests load another library: the shared servers have Sluice's.
describe.each([
  { name: "standalone", edition: 11 },
  { name: "standalone", edition: 14 },
  { name: "cluster", edition: 11 },
] as const)("a library whose search for cycles is limited ($name, $edition KEYS)", ({ name, edition }) => {
  let server: ValkeyServer;
  let valkey: Valkey;
  let other: Valkey;
  beforeAll(async () => {
    const cluster = name === "cluster";
    server = cluster ? await startValkeyCluster() : await startValkey();
    valkey = connectTo({ url: server.url, cluster });
    other = connectTo({ url: server.url, cluster });
  });
  afterAll(async () => {
    valkey.close();
    other.close();
    await server.stop();
  });

  const load = (limit: number) =>
    onEveryPrimary(valkey, "function", "load", "replace", limitedLibrarySource(edition, limit));

  function submit(workflow: Workflow, flowId = newFlowId(), pipelines: Pipelines = valkey) {
    const deps = { valkey: pipelines, router: ROUTER, completions: new RecordingPublisher() };
    return submitFlow(deps, workflow, { flowId });
  }

  const edgeCount = async (flowId: FlowId) => {
    const { core, partition } = ROUTER.flowKeys(flowId);
    return Number(await run(valkey, partition, "hget", core, "edge_count"));
  };

  test.each([
    ["a hub with 1,100 leaves", hub(FLOWFABRIC_LIMIT + 100)],
    ["a chain of 1,501 tasks", chain(1_500)],
  ])("FlowFabric's limit accepts %s from two submitters at once", async (_, workflow) => {
    await load(FLOWFABRIC_LIMIT);
    const flowId = newFlowId();
    await Promise.all([submit(workflow, flowId), submit(workflow, flowId, other)]);
    expect(await edgeCount(flowId)).toBe(workflow.edges.length);
  });

  test.each([
    ["a hub", hub(3 * SMALL_LIMIT)],
    ["a chain", chain(3 * SMALL_LIMIT)],
  ])("after a crash at any call, two submitters at once complete %s", async (_, workflow) => {
    await load(SMALL_LIMIT);
    const counter = new InterceptedPipelines(valkey, (_call, send) => send());
    await submit(workflow, newFlowId(), counter);
    for (let crash = 1; crash <= counter.calls; crash += 1) {
      const flowId = newFlowId();
      const crashing = new InterceptedPipelines(valkey, async (call, send) => {
        const results = await send();
        if (call >= crash) throw new Error("the process crashed");
        return results;
      });
      await expect(submit(workflow, flowId, crashing)).rejects.toThrow("the process crashed");
      await Promise.all([submit(workflow, flowId), submit(workflow, flowId, other)]);
      expect(await edgeCount(flowId)).toBe(workflow.edges.length);
    }
  });

  test("a false cycle is named as such, and as an error that a repetition does not correct", async () => {
    const flowId = newFlowId();
    const workflow = hub(3 * SMALL_LIMIT);
    await load(SMALL_LIMIT);
    const plan = planSubmission(ROUTER, workflow, flowId, "default");
    // Another client staged the hub's outgoing edges first, as Sluice 0.1 does.
    let isStaged = false;
    const disturbed = new InterceptedPipelines(valkey, async (_call, send, commands) => {
      if (!isStaged && commands.some(({ args }) => args[0] === "ff_stage_dependency_edge")) {
        isStaged = true;
        const outgoing = plan.tasks.flatMap(({ task, outgoing: edges }) => (task.id === "hub" ? edges : []));
        await valkey.pipelined(
          outgoing.map(({ edge }, position) =>
            stageDependencyEdge(plan.flow, edge, plan.tasks.length + position, Date.now()),
          ),
        );
      }
      return send();
    });
    const attempt = submit(workflow, flowId, disturbed);
    await expect(attempt).rejects.toMatchObject({ retryable: false });
    await expect(attempt).rejects.toThrow(/cycle_detected.*has no cycle.*1,000 nodes/);
    await expect(attempt).rejects.not.toThrow(/safe to submit again/);
    const { eligible } = plan.index.lane(plan.tasks[0]?.task.lane ?? expect.fail("no task"));
    expect(await run(valkey, plan.flow.partition, "zcard", eligible)).toBe(0);
  });
});
