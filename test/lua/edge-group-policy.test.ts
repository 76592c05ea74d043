import { describe, expect, test } from "vitest";
import type { ValkeyArgument } from "#shared/contract/command.ts";
import { setEdgeGroupPolicy } from "#shared/contract/groups.ts";
import { ANY_OF, groupOf, NOW, TWO } from "#test/lua/grouped-child.ts";
import { expectRefusal, fixturesOn } from "#test/support/expectations.ts";
import { DEPLOYMENTS_14 } from "#test/support/valkey.ts";

describe.each(DEPLOYMENTS_14)("ff_set_edge_group_policy ($name)", (deployment) => {
  const newFixture = fixturesOn(deployment);

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
    const fixture = newFixture();
    const child = await fixture.member();
    expect(await fixture.done(setEdgeGroupPolicy(fixture.flow, child.id, policy, NOW))).toEqual(["set"]);
    expect(await groupOf(fixture, child)).toEqual({
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

  test("does not change a group of the same variant, and replaces one of another", async () => {
    const fixture = newFixture();
    const child = await fixture.member();
    await fixture.group(child, TWO);
    const before = await fixture.snapshot();
    const again = setEdgeGroupPolicy(fixture.flow, child.id, { ...TWO, k: 3 }, NOW);
    expect(await fixture.done(again)).toEqual(["already_set"]);
    expect(await fixture.snapshot()).toEqual(before);
    await fixture.group(child, ANY_OF, NOW);
    expect(await groupOf(fixture, child)).toMatchObject({ policy_variant: "any_of", k: "1" });
  });

  test("refuses in the order of the contract, and writes nothing", async () => {
    const fixture = newFixture();
    const child = fixture.newExecution();
    const set = (...args: ValkeyArgument[]) => ({
      partition: fixture.flow.partition,
      name: "fcall",
      args: ["ff_set_edge_group_policy", 2, fixture.flow.core, fixture.flow.edgeGroup(child.id), ...args],
    });
    await expectRefusal(fixture, set("most_of", "", "", NOW), "flow_not_found");
    await fixture.createFlow();
    await expectRefusal(fixture, set("most_of", "", "", ""), "invalid_input", "policy_variant");
    for (const k of ["", "0", "-1", "1.5", "many"]) {
      await expectRefusal(fixture, set("quorum", "", k, ""), "invalid_input", "k");
    }
    await expectRefusal(fixture, set("quorum", "", 1, ""), "invalid_input", "on_satisfied");
    await expectRefusal(fixture, set("any_of", "wait", "", ""), "invalid_input", "on_satisfied");
    await expectRefusal(fixture, set("any_of", "let_run", "", ""), "invalid_input", "now_ms");
    await fixture.read("hset", fixture.flow.edgeGroup(child.id), "n", "1", "policy_variant", "any_of");
    await expectRefusal(fixture, set("any_of", "let_run", "", NOW), "invalid_input", "dependencies_applied");
    await fixture.read("hset", fixture.flow.edgeGroup(child.id), "n", "0");
    expect(await fixture.done(set("any_of", "let_run", "", NOW))).toEqual(["already_set"]);
  });
});
