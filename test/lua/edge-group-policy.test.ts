import { describe, expect, test } from "vitest";
import type { ValkeyArgument } from "#shared/contract/command.ts";
import { setEdgeGroupPolicy } from "#shared/contract/groups.ts";
import { ANY_OF, groupOf, NOW, TWO } from "#test/lua/grouped-child.ts";
import { expectRefusal, scenesOn } from "#test/support/expectations.ts";
import { DEPLOYMENTS_14 } from "#test/support/valkey.ts";

describe.each(DEPLOYMENTS_14)("ff_set_edge_group_policy on $name", (deployment) => {
  const newScene = scenesOn(deployment);

  test.each([
    [{ variant: "all_of" }, { on_satisfied: "", k: "" }],
    [
      { variant: "any_of", onSatisfied: "let_run" },
      { on_satisfied: "let_run", k: "1" },
    ],
    [
      { variant: "quorum", onSatisfied: "cancel_remaining", k: 3 },
      { on_satisfied: "cancel_remaining", k: "3" },
    ],
  ] as const)("%o is written, at now_ms", async (policy, expected) => {
    const scene = newScene();
    const child = await scene.member();
    expect(await scene.done(setEdgeGroupPolicy(scene.flow, child.id, policy, NOW))).toEqual(["set"]);
    expect(await groupOf(scene, child)).toEqual({
      policy_variant: policy.variant,
      ...expected,
      n: "0",
      succeeded: "0",
      failed: "0",
      skipped: "0",
      group_state: "pending",
      created_at: String(NOW),
    });
  });

  test("the same variant again changes nothing; another one replaces it", async () => {
    const scene = newScene();
    const child = await scene.member();
    await scene.group(child, TWO);
    const before = await scene.snapshot();
    const again = setEdgeGroupPolicy(scene.flow, child.id, { ...TWO, k: 3 }, NOW);
    expect(await scene.done(again)).toEqual(["already_set"]);
    expect(await scene.snapshot()).toEqual(before);
    await scene.group(child, ANY_OF, NOW);
    expect(await groupOf(scene, child)).toMatchObject({ policy_variant: "any_of", k: "1" });
  });

  test("refuses, in the contract's order", async () => {
    const scene = newScene();
    const child = scene.newExecution();
    const set = (...args: ValkeyArgument[]) => ({
      partition: scene.flow.partition,
      name: "fcall",
      args: ["ff_set_edge_group_policy", 2, scene.flow.core, scene.flow.edgeGroup(child.id), ...args],
    });
    await expectRefusal(scene, set("most_of", "", "", NOW), "flow_not_found");
    await scene.createFlow();
    await expectRefusal(scene, set("most_of", "", "", ""), "invalid_input", "policy_variant");
    for (const k of ["", "0", "-1", "1.5", "many"]) {
      await expectRefusal(scene, set("quorum", "", k, ""), "invalid_input", "k");
    }
    await expectRefusal(scene, set("quorum", "", 1, ""), "invalid_input", "on_satisfied");
    await expectRefusal(scene, set("any_of", "wait", "", ""), "invalid_input", "on_satisfied");
    await expectRefusal(scene, set("any_of", "let_run", "", ""), "invalid_input", "now_ms");
    await scene.read("hset", scene.flow.edgeGroup(child.id), "n", "1", "policy_variant", "any_of");
    await expectRefusal(scene, set("any_of", "let_run", "", NOW), "invalid_input", "dependencies_applied");
    await scene.read("hset", scene.flow.edgeGroup(child.id), "n", "0");
    expect(await scene.done(set("any_of", "let_run", "", NOW))).toEqual(["already_set"]);
  });
});
