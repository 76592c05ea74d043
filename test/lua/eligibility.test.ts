import { describe, expect, test } from "vitest";
import { evaluateFlowEligibility, promoteBlockedToEligible } from "#shared/contract/graph.ts";
import { promoteDelayed } from "#shared/contract/ownership.ts";
import { expectOnlyIn, expectRefusal, fixturesOn, serverTime } from "#test/support/expectations.ts";
import { field } from "#test/support/flow-fixture.ts";
import { WAITING } from "#test/support/states.ts";
import { DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

const NOW = 1_234_567_890_123;

describe.each(DEPLOYMENTS_OF_BOTH)("eligibility ($name, $edition KEYS)", (deployment) => {
  const newFixture = fixturesOn(deployment);

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
    const fixture = newFixture();
    const keys = await fixture.execution();
    for (const [name, value] of Object.entries(core)) await fixture.read("hset", keys.core, name, value);
    for (const [name, value] of Object.entries(meta)) await fixture.read("hset", keys.depsMeta, name, value);
    const before = await fixture.snapshot();
    expect(await fixture.done(evaluateFlowEligibility(keys))).toEqual([expected]);
    expect(await fixture.snapshot()).toEqual(before);
  });

  test("ff_evaluate_flow_eligibility replies not_found, and can be called with FCALL_RO", async () => {
    const fixture = newFixture();
    const command = evaluateFlowEligibility(fixture.newExecution());
    expect(await fixture.done(command)).toEqual(["not_found"]);
    expect(await fixture.done({ ...command, name: "fcall_ro" })).toEqual(["not_found"]);
  });

  test("ff_promote_blocked_to_eligible releases an execution without unsatisfied dependencies, at now_ms", async () => {
    const fixture = newFixture();
    const [up, child] = [await fixture.member(), await fixture.member({ priority: 1 })];
    const edge = await fixture.edge(up, child);
    await fixture.read("hset", child.depsMeta, "unsatisfied_required_count", "0");
    await fixture.read("srem", child.depsUnresolved, edge.id);
    const promoted = await fixture.call(promoteBlockedToEligible(child, fixture.index, fixture.lane, NOW));
    expect(promoted).toEqual({ kind: "done", status: "OK", fields: [] });
    const core = await fixture.hash(child.core);
    expect(core).toMatchObject({
      ...WAITING,
      attempt_state: "pending_first_attempt",
      last_transition_at: String(NOW),
    });
    await expectOnlyIn(fixture, child, "eligible", Number(field(core, "created_at")) - 1e12);
  });

  test("ff_promote_blocked_to_eligible refuses in the order of the contract", async () => {
    const fixture = newFixture();
    const child = fixture.newExecution();
    const command = promoteBlockedToEligible(child, fixture.index, fixture.lane, NOW);
    await expectRefusal(fixture, command, "execution_not_found");
    const [up, waiting] = [await fixture.member(), await fixture.member()];
    const promote = promoteBlockedToEligible(waiting, fixture.index, fixture.lane, NOW);
    await expectRefusal(fixture, promote, "not_blocked_by_deps");
    const edge = await fixture.edge(up, waiting);
    await fixture.read(
      "hset",
      waiting.core,
      "lifecycle_phase",
      "active",
      "eligibility_state",
      "not_applicable",
    );
    await expectRefusal(fixture, promote, "not_runnable");
    await fixture.read("hset", waiting.core, "lifecycle_phase", "runnable", "terminal_outcome", "success");
    await expectRefusal(fixture, promote, "not_blocked_by_deps");
    await fixture.read("hset", waiting.core, "eligibility_state", "blocked_by_dependencies");
    await expectRefusal(fixture, promote, "terminal");
    await fixture.read("hset", waiting.core, "terminal_outcome", "none");
    await expectRefusal(fixture, promote, "deps_not_satisfied", "1", "1");
    await fixture.read("hset", waiting.depsMeta, "unsatisfied_required_count", "0");
    await expectRefusal(fixture, promote, "deps_not_satisfied", "0", "1");
    await fixture.read("hset", waiting.depsMeta, "impossible_required_count", "1");
    await fixture.read("srem", waiting.depsUnresolved, edge.id);
    await expectRefusal(fixture, promote, "deps_not_satisfied", "0", "0");
    await fixture.read("hset", waiting.depsMeta, "impossible_required_count", "0");
    const noTime = promoteBlockedToEligible(waiting, fixture.index, fixture.lane, Number.NaN);
    await expectRefusal(fixture, noTime, "invalid_input", "now_ms");
  });

  test("ff_promote_delayed makes eligible what is due at the time that the caller passes", async () => {
    const fixture = newFixture();
    const delayUntil = (await serverTime(fixture)) + 3_600_000;
    const keys = await fixture.execution({ delayUntil, priority: 2 });
    await fixture.read("hset", keys.core, "attempt_state", "pending_retry_attempt");
    const before = await fixture.snapshot();
    const early = promoteDelayed(fixture.target(keys), delayUntil - 1);
    expect(await fixture.done(early)).toEqual(["not_yet_due"]);
    await expectRefusal(fixture, promoteDelayed(fixture.target(keys), Number.NaN), "invalid_input", "now_ms");
    expect(await fixture.snapshot()).toEqual(before);
    expect(await fixture.done(promoteDelayed(fixture.target(keys), delayUntil))).toEqual(["promoted"]);
    const core = await fixture.hash(keys.core);
    expect(core).toMatchObject({ ...WAITING, attempt_state: "pending_retry_attempt", delay_until: "" });
    expect(field(core, "last_transition_at")).toBe(String(delayUntil));
    await expectOnlyIn(fixture, keys, "eligible", Number(field(core, "created_at")) - 2e12);
  });

  test("ff_promote_delayed removes the entry of an execution that is not delayed, and writes nothing else", async () => {
    const fixture = newFixture();
    const absent = fixture.newExecution();
    const running = await fixture.execution();
    await fixture.claim(running);
    const eligible = await fixture.execution();
    const before = await fixture.snapshot();
    const { delayed } = fixture.index.lane(fixture.lane);
    for (const [keys, word] of [
      [absent, "not_found_cleaned"],
      [running, "not_runnable_cleaned"],
      [eligible, "not_delayed_cleaned"],
    ] as const) {
      await fixture.read("zadd", delayed, "1", keys.id);
      expect(await fixture.done(promoteDelayed(fixture.target(keys), Date.now()))).toEqual([word]);
      expect(await fixture.snapshot()).toEqual(before);
    }
  });
});
