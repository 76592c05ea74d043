import { describe, expect, test } from "vitest";
import { evaluateFlowEligibility, promoteBlockedToEligible } from "#shared/contract/graph.ts";
import { promoteDelayed } from "#shared/contract/ownership.ts";
import {
  expectOnlyIn,
  expectRefusal,
  expectTimeIn,
  scenesOn,
  serverTime,
} from "#test/support/expectations.ts";
import { field } from "#test/support/scene.ts";
import { WAITING } from "#test/support/states.ts";
import { DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

const NOW = 1_234_567_890_123;

describe.each(DEPLOYMENTS_OF_BOTH)("eligibility on $name, $edition KEYS", (deployment) => {
  const newScene = scenesOn(deployment);

  test.each([
    ["not_runnable", { lifecycle_phase: "terminal", terminal_outcome: "success" }, {}],
    ["not_runnable", { lifecycle_phase: "suspended" }, {}],
    ["owned", { ownership_state: "leased", terminal_outcome: "success" }, { impossible_required_count: "1" }],
    ["terminal", { terminal_outcome: "success" }, { impossible_required_count: "1" }],
    ["impossible", {}, { impossible_required_count: "1", unsatisfied_required_count: "1" }],
    ["blocked_by_dependencies", {}, { impossible_required_count: "", unsatisfied_required_count: "1" }],
    ["eligible", {}, { impossible_required_count: "0", unsatisfied_required_count: "" }],
    ["eligible", { terminal_outcome: "" }, {}],
  ])("ff_evaluate_flow_eligibility: %s", async (expected, core, meta) => {
    const scene = newScene();
    const keys = await scene.execution();
    for (const [name, value] of Object.entries(core)) await scene.read("hset", keys.core, name, value);
    for (const [name, value] of Object.entries(meta)) await scene.read("hset", keys.depsMeta, name, value);
    const before = await scene.snapshot();
    expect(await scene.done(evaluateFlowEligibility(keys))).toEqual([expected]);
    expect(await scene.snapshot()).toEqual(before);
  });

  test("ff_evaluate_flow_eligibility: not_found, and it may run where nothing may be written", async () => {
    const scene = newScene();
    const command = evaluateFlowEligibility(scene.newExecution());
    expect(await scene.done(command)).toEqual(["not_found"]);
    expect(await scene.done({ ...command, name: "fcall_ro" })).toEqual(["not_found"]);
  });

  test("ff_promote_blocked_to_eligible releases an execution that waits for nothing, at now_ms", async () => {
    const scene = newScene();
    const [up, child] = [await scene.member(), await scene.member({ priority: 1 })];
    const edge = await scene.edge(up, child);
    await scene.read("hset", child.depsMeta, "unsatisfied_required_count", "0");
    await scene.read("srem", child.depsUnresolved, edge.id);
    const promoted = await scene.call(promoteBlockedToEligible(child, scene.index, scene.lane, NOW));
    expect(promoted).toEqual({ kind: "done", status: "OK", fields: [] });
    const core = await scene.hash(child.core);
    expect(core).toMatchObject({
      ...WAITING,
      attempt_state: "pending_first_attempt",
      last_transition_at: String(NOW),
    });
    await expectOnlyIn(scene, child, "eligible", Number(field(core, "created_at")) - 1e12);
  });

  test("ff_promote_blocked_to_eligible refuses, in the contract's order", async () => {
    const scene = newScene();
    const child = scene.newExecution();
    const command = promoteBlockedToEligible(child, scene.index, scene.lane, NOW);
    await expectRefusal(scene, command, "execution_not_found");
    const [up, waiting] = [await scene.member(), await scene.member()];
    const promote = promoteBlockedToEligible(waiting, scene.index, scene.lane, NOW);
    await expectRefusal(scene, promote, "not_blocked_by_deps");
    const edge = await scene.edge(up, waiting);
    await scene.read(
      "hset",
      waiting.core,
      "lifecycle_phase",
      "active",
      "eligibility_state",
      "not_applicable",
    );
    await expectRefusal(scene, promote, "not_runnable");
    await scene.read("hset", waiting.core, "lifecycle_phase", "runnable", "terminal_outcome", "success");
    await expectRefusal(scene, promote, "not_blocked_by_deps");
    await scene.read("hset", waiting.core, "eligibility_state", "blocked_by_dependencies");
    await expectRefusal(scene, promote, "terminal");
    await scene.read("hset", waiting.core, "terminal_outcome", "none");
    await expectRefusal(scene, promote, "deps_not_satisfied", "1", "1");
    await scene.read("hset", waiting.depsMeta, "unsatisfied_required_count", "0");
    await expectRefusal(scene, promote, "deps_not_satisfied", "0", "1");
    await scene.read("hset", waiting.depsMeta, "impossible_required_count", "1");
    await scene.read("srem", waiting.depsUnresolved, edge.id);
    await expectRefusal(scene, promote, "deps_not_satisfied", "0", "0");
    await scene.read("hset", waiting.depsMeta, "impossible_required_count", "0");
    const noTime = promoteBlockedToEligible(waiting, scene.index, scene.lane, Number.NaN);
    await expectRefusal(scene, noTime, "invalid_input", "now_ms");
  });

  test("ff_promote_delayed makes eligible what has waited long enough, by the server's clock", async () => {
    const scene = newScene();
    const from = await serverTime(scene);
    const keys = await scene.execution({ delayUntil: from + 3_600_000, priority: 2 });
    const command = promoteDelayed(scene.target(keys), from + 7_200_000);
    await expectRefusal(scene, command, "delay_not_elapsed", String(from + 3_600_000));
    await scene.read(
      "hset",
      keys.core,
      "delay_until",
      String(from),
      "attempt_state",
      "pending_retry_attempt",
    );
    expect(await scene.call(command)).toEqual({ kind: "done", status: "OK", fields: [] });
    const core = await scene.hash(keys.core);
    expect(core).toMatchObject({ ...WAITING, attempt_state: "pending_retry_attempt", delay_until: "" });
    expectTimeIn(field(core, "last_transition_at"), from, await serverTime(scene));
    await expectOnlyIn(scene, keys, "eligible", Number(field(core, "created_at")) - 2e12);
    await expectRefusal(scene, command, "not_delayed");
  });

  test("ff_promote_delayed refuses what is not there, or runs", async () => {
    const scene = newScene();
    const absent = promoteDelayed(scene.target(scene.newExecution()), 0);
    await expectRefusal(scene, absent, "execution_not_found");
    const keys = await scene.execution();
    await scene.claim(keys);
    await expectRefusal(scene, promoteDelayed(scene.target(keys), 0), "not_runnable");
  });
});
