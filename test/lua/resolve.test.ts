import { describe, expect, test } from "vitest";
import { replayExecution } from "#shared/contract/graph.ts";
import type { TerminalOutcome } from "#shared/contract/record.ts";
import { decodeResolution } from "#shared/contract/resolve.ts";
import { expectOnlyIn, expectRefusal, fixturesOn } from "#test/support/expectations.ts";
import { attempt, field } from "#test/support/flow-fixture.ts";
import { ACTIVE, BLOCKED, ended, WAITING } from "#test/support/states.ts";
import { DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

/** A now_ms that no clock shows, so that tests can tell whether it was used. */
const NOW = 1_234_567_890_123;
const NOT_SUCCESS: readonly TerminalOutcome[] = ["failed", "cancelled", "expired", "skipped"];

describe.each(DEPLOYMENTS_OF_BOTH)("ff_resolve_dependency ($name, $edition KEYS)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  test("releases the child with the last of two successes, at now_ms", async () => {
    const fixture = newFixture();
    const [a, b] = [await fixture.member(), await fixture.member()];
    const child = await fixture.member({ priority: 3 });
    const [first, second] = [await fixture.edge(a, child), await fixture.edge(b, child)];

    expect(await fixture.done(fixture.resolution(first, "success", NOW))).toEqual(["satisfied", ""]);
    expect(await fixture.hash(child.core)).toMatchObject(BLOCKED);
    await expectOnlyIn(fixture, child, "blockedDependencies");
    expect(await fixture.hash(child.dep(first.id))).toMatchObject({
      state: "satisfied",
      last_resolved_at: String(NOW),
    });
    expect(await fixture.read("smembers", child.depsUnresolved)).toEqual([second.id]);
    expect(await fixture.hash(child.depsMeta)).toMatchObject({
      unsatisfied_required_count: "1",
      impossible_required_count: "0",
      last_dependency_update_at: String(NOW),
    });

    expect(await fixture.done(fixture.resolution(second, "success", NOW + 1))).toEqual(["satisfied", ""]);
    const core = await fixture.hash(child.core);
    expect(core).toMatchObject({
      ...WAITING,
      attempt_state: "pending_first_attempt",
      last_transition_at: String(NOW + 1),
      last_mutation_at: String(NOW + 1),
    });
    await expectOnlyIn(fixture, child, "eligible", Number(field(core, "created_at")) - 3e12);
    expect(await fixture.read("exists", child.depsUnresolved)).toBe(0);
    expect((await fixture.snapshot())[child.depsAllEdges]?.value).toEqual([first.id, second.id].sort());
  });

  test.each([
    ["none", "pending_first_attempt"],
    ["", "pending_first_attempt"],
    ["pending_retry_attempt", "pending_retry_attempt"],
    ["pending_replay_attempt", "pending_replay_attempt"],
  ])("attempt state %j of a released child becomes %s", async (before, after) => {
    const fixture = newFixture();
    const [up, child] = [await fixture.member(), await fixture.member()];
    const edge = await fixture.edge(up, child);
    await fixture.read("hset", child.core, "attempt_state", before);
    await fixture.done(fixture.resolution(edge, "success"));
    expect(field(await fixture.hash(child.core), "attempt_state")).toBe(after);
  });

  test.each(NOT_SUCCESS)("skips the child for outcome %s, at now_ms", async (outcome) => {
    const fixture = newFixture();
    const [a, b, child] = [await fixture.member(), await fixture.member(), await fixture.member()];
    const [first, second] = [await fixture.edge(a, child), await fixture.edge(b, child)];
    expect(await fixture.done(fixture.resolution(first, outcome, NOW))).toEqual([
      "impossible",
      "child_skipped",
    ]);
    expect(await fixture.hash(child.core)).toMatchObject({
      ...ended("skipped"),
      attempt_state: "none",
      completed_at: String(NOW),
      last_transition_at: String(NOW),
      last_mutation_at: String(NOW),
    });
    await expectOnlyIn(fixture, child, "terminal", NOW);
    expect(await fixture.hash(child.dep(first.id))).toMatchObject({
      state: "impossible",
      last_resolved_at: String(NOW),
    });
    expect(await fixture.hash(child.depsMeta)).toMatchObject({
      unsatisfied_required_count: "1",
      impossible_required_count: "1",
      last_dependency_update_at: String(NOW),
    });
    expect(await fixture.read("smembers", child.depsUnresolved)).toEqual([second.id]);

    // The other edge is still counted. The child is not skipped again and not released.
    const core = await fixture.hash(child.core);
    expect(await fixture.done(fixture.resolution(second, outcome, NOW + 1))).toEqual(["impossible", ""]);
    expect(await fixture.hash(child.core)).toEqual(core);
    expect(await fixture.hash(child.depsMeta)).toMatchObject({
      unsatisfied_required_count: "0",
      impossible_required_count: "2",
    });
  });

  test("does not release a skipped child after a later success", async () => {
    const fixture = newFixture();
    const [a, b, child] = [await fixture.member(), await fixture.member(), await fixture.member()];
    const [first, second] = [await fixture.edge(a, child), await fixture.edge(b, child, "input")];
    await fixture.finish(b, "success", "result");
    await fixture.done(fixture.resolution(first, "failed"));
    expect(await fixture.done(fixture.resolution(second, "success"))).toEqual(["satisfied", ""]);
    expect(await fixture.hash(child.core)).toMatchObject(ended("skipped"));
    expect(await fixture.read("exists", child.payload)).toBe(0);
    await expectOnlyIn(fixture, child, "terminal");
  });

  test.each(["success", "failed"] as const)(
    "a second %s is already resolved, and writes nothing",
    async (outcome) => {
      const fixture = newFixture();
      const [up, child] = [await fixture.member(), await fixture.member()];
      const edge = await fixture.edge(up, child);
      await fixture.done(fixture.resolution(edge, outcome, NOW));
      const before = await fixture.snapshot();
      for (const again of ["success", "failed"] as const) {
        const raw = await fixture.read("fcall", ...fixture.resolution(edge, again, NOW + 1).args);
        expect(raw).toEqual([1, "OK", "already_resolved"]);
        expect(decodeResolution(raw)).toEqual({ ok: true, value: { kind: "already_resolved" } });
      }
      expect(await fixture.snapshot()).toEqual(before);
    },
  );

  test("refuses an edge that was not applied", async () => {
    const fixture = newFixture();
    const [up, child] = [await fixture.member(), await fixture.member()];
    const edge = fixture.newEdge(up, child);
    await fixture.stage(edge);
    await expectRefusal(fixture, fixture.resolution(edge, "success"), "invalid_dependency");
    await expectRefusal(fixture, fixture.resolution(edge, "failed", Number.NaN), "invalid_dependency");
  });

  test("refuses a malformed now_ms before any write", async () => {
    const fixture = newFixture();
    const [up, child] = [await fixture.member(), await fixture.member()];
    const edge = await fixture.edge(up, child);
    for (const outcome of ["success", "failed"] as const) {
      await expectRefusal(fixture, fixture.resolution(edge, outcome, Number.NaN), "invalid_input", "now_ms");
    }
  });

  test.each([
    ["success", "satisfied"],
    ["failed", "impossible"],
  ] as const)(
    "a child without a record: %s counts, and no record or index appears",
    async (outcome, state) => {
      const fixture = newFixture();
      const [up, child] = [await fixture.member(), await fixture.member()];
      const edge = await fixture.edge(up, child, "input");
      await fixture.finish(up, "success", "result");
      await fixture.read("del", child.core);
      const before = Object.keys(await fixture.snapshot());
      expect(await fixture.done(fixture.resolution(edge, outcome))).toEqual([state, ""]);
      const after = Object.keys(await fixture.snapshot());
      expect(after).toEqual(before.filter((key) => key !== child.depsUnresolved));
      expect(field(await fixture.hash(child.dep(edge.id)), "state")).toBe(state);
    },
  );

  test("copies the upstream's result to the payload of the child that it releases", async () => {
    const fixture = newFixture();
    const [up, child] = [await fixture.member(), await fixture.member({ payload: "old" })];
    const edge = await fixture.edge(up, child, "input");
    const result = Buffer.from([0, 255, 10, 13, 0]);
    await fixture.finish(up, "success", result);
    expect(await fixture.done(fixture.resolution(edge, "success"))).toEqual(["satisfied", "data_injected"]);
    expect(await fixture.hash(child.core)).toMatchObject(WAITING);
    expect(await fixture.read("strlen", child.payload)).toBe(result.length);
    expect(await fixture.read("get", child.payload)).toBe(result.toString("utf8"));
    expect(await fixture.read("exists", up.result)).toBe(1);
  });

  test("passes data with each success, and the last result wins", async () => {
    const fixture = newFixture();
    const [a, b, child] = [await fixture.member(), await fixture.member(), await fixture.member()];
    const [first, second] = [await fixture.edge(a, child, "x"), await fixture.edge(b, child, "y")];
    await fixture.finish(a, "success", "from a");
    await fixture.finish(b, "success", "from b");
    expect(await fixture.done(fixture.resolution(first, "success"))).toEqual(["satisfied", "data_injected"]);
    expect(await fixture.read("get", child.payload)).toBe("from a");
    expect(await fixture.done(fixture.resolution(second, "success"))).toEqual(["satisfied", "data_injected"]);
    expect(await fixture.read("get", child.payload)).toBe("from b");
  });

  test("copies nothing without a result or a data_passing_ref", async () => {
    const fixture = newFixture();
    const [a, b] = [await fixture.member(), await fixture.member()];
    const child = await fixture.member({ payload: "own" });
    const [missing, unasked] = [await fixture.edge(a, child, "x"), await fixture.edge(b, child)];
    await fixture.finish(b, "success", "from b");
    expect(await fixture.done(fixture.resolution(missing, "success"))).toEqual(["satisfied", ""]);
    expect(await fixture.done(fixture.resolution(unasked, "success"))).toEqual(["satisfied", ""]);
    expect(await fixture.read("get", child.payload)).toBe("own");
    expect(await fixture.hash(child.core)).toMatchObject(WAITING);
  });

  test.each(["running_attempt", "attempt_interrupted"])("ends the %s of a skipped child", async (running) => {
    const fixture = newFixture();
    const [up, child] = [await fixture.member(), await fixture.member()];
    await fixture.claim(child);
    await fixture.read("hset", child.core, "attempt_state", running);
    const edge = fixture.newEdge(up, child);
    await fixture.done(fixture.apply(edge, child, await fixture.stage(edge)));
    expect(await fixture.hash(child.core)).toMatchObject(ACTIVE);
    await fixture.read("hset", child.streamMeta(attempt(0)), "opened_at", "1");
    const skipped = await fixture.done(fixture.resolution(edge, "failed", NOW));
    expect(skipped).toEqual(["impossible", "child_skipped"]);
    expect(await fixture.hash(child.core)).toMatchObject({
      ...ended("skipped"),
      attempt_state: "attempt_terminal",
    });
    expect(await fixture.hash(child.attempt(attempt(0)))).toMatchObject({
      attempt_state: "ended_cancelled",
      ended_at: String(NOW),
      failure_reason: "dependency_impossible",
    });
    expect(await fixture.hash(child.streamMeta(attempt(0)))).toMatchObject({
      closed_at: String(NOW),
      closed_reason: "dependency_impossible",
    });
  });

  test("creates no stream, and does not change an attempt that is not open", async () => {
    const fixture = newFixture();
    const [up, child] = [await fixture.member(), await fixture.member()];
    const edge = await fixture.edge(up, child);
    await fixture.done(fixture.resolution(edge, "failed"));
    expect(await fixture.read("exists", child.streamMeta(attempt(0)), child.attempt(attempt(0)))).toBe(0);
  });

  test("does not mistake an edge for the last one if the count was lost", async () => {
    const fixture = newFixture();
    const [first, second, child] = [await fixture.member(), await fixture.member(), await fixture.member()];
    const edge = await fixture.edge(first, child);
    await fixture.edge(second, child);
    await fixture.read("hset", child.depsMeta, "unsatisfied_required_count", "");
    await fixture.done(fixture.resolution(edge, "success"));
    expect(await fixture.hash(child.core)).toMatchObject({ public_state: "waiting_children" });
  });

  test("skips a replayed child again", async () => {
    const fixture = newFixture();
    const [up, child] = [await fixture.member(), await fixture.member()];
    const edge = await fixture.edge(up, child);
    await fixture.done(fixture.resolution(edge, "failed", NOW));
    const replay = replayExecution(child, fixture.index, fixture.lane, [edge.id], 0);
    expect(await fixture.done(replay)).toEqual(["1"]);
    await expectOnlyIn(fixture, child, "blockedDependencies");
    const again = await fixture.done(fixture.resolution(edge, "failed", NOW + 1));
    expect(again).toEqual(["impossible", "child_skipped"]);
    expect(await fixture.hash(child.core)).toMatchObject({
      ...ended("skipped"),
      completed_at: String(NOW + 1),
    });

    await fixture.done(replay);
    expect(await fixture.done(fixture.resolution(edge, "success", NOW + 2))).toEqual(["satisfied", ""]);
    expect(await fixture.hash(child.core)).toMatchObject({
      ...WAITING,
      attempt_state: "pending_replay_attempt",
      replay_count: "2",
    });
  });

  test("takes the keys of either edition, and fails with fewer than its own", async () => {
    const fixture = newFixture();
    const [up, child] = [await fixture.member(), await fixture.member()];
    const edge = await fixture.edge(up, child);
    const { name, args } = fixture.resolution(edge, "failed", NOW);
    expect(args[1]).toBe(14);
    const before = await fixture.snapshot();
    const short = [args[0] ?? "", 10, ...args.slice(2, 12), ...args.slice(16)];
    await expect(fixture.read(name, ...short)).rejects.toThrow(
      `ff_resolve_dependency takes ${deployment.edition} KEYS, not 10`,
    );
    expect(await fixture.snapshot()).toEqual(before);
    expect(await fixture.read(name, ...args)).toEqual([1, "OK", "impossible", "child_skipped"]);
  });
});
