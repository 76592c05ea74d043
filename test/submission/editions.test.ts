import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { planSubmission } from "#sdk/submission/plan.ts";
import { submitFlow } from "#sdk/submission/submit.ts";
import { applyDependencyToChild } from "#shared/contract/submission.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { LANE, RecordingPublisher, workflowOf } from "#test/submission/fixture.ts";
import { newFlowId, ROUTER } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS_14, DEPLOYMENTS_OF_BOTH, run } from "#test/support/valkey.ts";

const DIAMOND = workflowOf("a>b", "a=>c", "b>d", "c>d");

describe.each(DEPLOYMENTS_OF_BOTH)("submitFlow ($name, $edition KEYS)", ({ connect, edition }) => {
  let valkey: Valkey;
  beforeAll(() => {
    valkey = connect();
  });
  afterAll(() => valkey.close());

  const submit = (flowId = newFlowId()) =>
    submitFlow({ valkey, router: ROUTER, completions: new RecordingPublisher() }, DIAMOND, { flowId });

  test("every child is blocked; only the 14-KEYS edition counts its edges in a group", async () => {
    const { flowId } = await submit();
    await submit(flowId);
    const plan = planSubmission(ROUTER, DIAMOND, flowId, "default");
    for (const { keys, incoming } of plan.tasks) {
      const read = (...args: string[]) => run(valkey, keys.partition, "hget", ...args);
      const blocked = incoming.length > 0;
      expect(await read(keys.core, "public_state")).toBe(blocked ? "waiting_children" : "waiting");
      const expected = blocked && edition === 14 ? String(incoming.length) : null;
      expect(await read(plan.flow.edgeGroup(keys.id), "n")).toBe(expected);
    }
  });
});

describe.each(DEPLOYMENTS_14)("keys ($name)", () => {
  test("the edge group is the eighth key of ff_apply_dependency_to_child", () => {
    const plan = planSubmission(ROUTER, DIAMOND, newFlowId(), "default");
    const last = plan.tasks.at(-1);
    const [edge] = last?.incoming ?? [];
    if (last === undefined || edge === undefined) throw new Error("d has incoming edges");
    const { args } = applyDependencyToChild(plan.flow, last.keys, plan.index, LANE, edge, 0, 1);
    expect(args.slice(1, 10)).toEqual([8, ...args.slice(2, 9), plan.flow.edgeGroup(last.keys.id)]);
  });
});
