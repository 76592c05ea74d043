/** A delayed execution that gets dependencies keeps its delay: satisfied before its time, it is delayed again. */

import { describe, expect, test } from "vitest";
import { promoteBlockedToEligible, replayExecution } from "#shared/contract/graph.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { promoteDelayed } from "#shared/contract/ownership.ts";
import type { Edge } from "#shared/contract/submission.ts";
import { ANY_OF, TWO } from "#test/lua/grouped-child.ts";
import { expectOnlyIn, fixturesOn, serverTime } from "#test/support/expectations.ts";
import { type FlowFixture, field } from "#test/support/flow-fixture.ts";
import { BLOCKED, DELAYED, RETRYING, WAITING } from "#test/support/states.ts";
import { DEPLOYMENTS_14, DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

const NOW = 1_234_567_890_123;
const RETRY_IN_AN_HOUR = '{"max_retries":1,"backoff":{"type":"fixed","delay_ms":3600000}}';

interface BlockedChild {
  readonly fixture: FlowFixture;
  readonly child: ExecKeys;
  readonly edge: Edge;
  readonly delayUntil: number;
}

/** A child with one edge whose delay ends in an hour. */
async function blockedChild(fixture: FlowFixture): Promise<BlockedChild> {
  const delayUntil = (await serverTime(fixture)) + 3_600_000;
  const child = await fixture.member({ delayUntil, priority: 2 });
  const edge = await fixture.edge(await fixture.member(), child);
  expect(await fixture.hash(child.core)).toMatchObject({
    ...BLOCKED,
    blocking_detail: `delayed until ${delayUntil}`,
    delay_until: String(delayUntil),
  });
  return { fixture, child, edge, delayUntil };
}

async function expectDelayed({ fixture, child, delayUntil }: BlockedChild): Promise<void> {
  expect(await fixture.hash(child.core)).toMatchObject({ ...DELAYED, delay_until: String(delayUntil) });
  await expectOnlyIn(fixture, child, "delayed", delayUntil);
}

/** Ends the delay by the record. */
async function passDelay({ fixture, child }: BlockedChild): Promise<void> {
  await fixture.read("hset", child.core, "delay_until", "1000");
}

describe.each(DEPLOYMENTS_OF_BOTH)(
  "delayed children with dependencies ($name, $edition KEYS)",
  (deployment) => {
    const newFixture = fixturesOn(deployment);

    test("a child whose last edge is satisfied before its time is delayed, then promoted", async () => {
      const blocked = await blockedChild(newFixture());
      const { fixture, child, edge, delayUntil } = blocked;
      expect(await fixture.done(fixture.resolution(edge, "success", NOW))).toEqual(["satisfied", ""]);
      await expectDelayed(blocked);
      expect(await fixture.done(promoteDelayed(fixture.target(child), delayUntil))).toEqual(["promoted"]);
      const core = await fixture.hash(child.core);
      expect(core).toMatchObject({ ...WAITING, attempt_state: "pending_first_attempt", delay_until: "" });
      await expectOnlyIn(fixture, child, "eligible", Number(field(core, "created_at")) - 2e12);
    });

    test("a second edge does not end the delay", async () => {
      const blocked = await blockedChild(newFixture());
      const { fixture, child, edge } = blocked;
      const second = await fixture.edge(await fixture.member(), child);
      await fixture.done(fixture.resolution(edge, "success", NOW));
      await expectOnlyIn(fixture, child, "blockedDependencies");
      await fixture.done(fixture.resolution(second, "success", NOW));
      await expectDelayed(blocked);
    });

    test("a child whose last edge is satisfied after its time is eligible", async () => {
      const blocked = await blockedChild(newFixture());
      const { fixture, child, edge } = blocked;
      await passDelay(blocked);
      expect(await fixture.done(fixture.resolution(edge, "success", NOW))).toEqual(["satisfied", ""]);
      expect(await fixture.hash(child.core)).toMatchObject(WAITING);
      await expectOnlyIn(fixture, child, "eligible");
    });

    test("a child that waits for a retry keeps its reason", async () => {
      const fixture = newFixture();
      const child = await fixture.member();
      await fixture.fail(child, await fixture.claim(child), RETRY_IN_AN_HOUR);
      const edge = await fixture.edge(await fixture.member(), child);
      await fixture.done(fixture.resolution(edge, "success", NOW));
      expect(await fixture.hash(child.core)).toMatchObject({
        ...RETRYING,
        attempt_state: "pending_retry_attempt",
      });
      await expectOnlyIn(fixture, child, "delayed");
    });

    test("ff_promote_blocked_to_eligible keeps the delay, too", async () => {
      const blocked = await blockedChild(newFixture());
      const { fixture, child, edge } = blocked;
      await fixture.read("hset", child.depsMeta, "unsatisfied_required_count", "0");
      await fixture.read("srem", child.depsUnresolved, edge.id);
      await fixture.done(promoteBlockedToEligible(child, fixture.index, fixture.lane, NOW));
      await expectDelayed(blocked);
    });

    test("a skipped child keeps its delay when it is replayed", async () => {
      const blocked = await blockedChild(newFixture());
      const { fixture, child, edge, delayUntil } = blocked;
      await fixture.done(fixture.resolution(edge, "failed", NOW));
      await expectOnlyIn(fixture, child, "terminal");
      await fixture.done(replayExecution(child, fixture.index, fixture.lane, [edge.id], NOW));
      await expectOnlyIn(fixture, child, "blockedDependencies");
      await fixture.done(fixture.resolution(edge, "success", NOW));
      await expectDelayed(blocked);
      await fixture.done(promoteDelayed(fixture.target(child), delayUntil));
      expect(field(await fixture.hash(child.core), "attempt_state")).toBe("pending_replay_attempt");
    });

    test("an execution that was cancelled while it was delayed is eligible when it is replayed", async () => {
      const fixture = newFixture();
      const keys = await fixture.member({ delayUntil: (await serverTime(fixture)) + 3_600_000 });
      await fixture.cancel(keys);
      await fixture.done(replayExecution(keys, fixture.index, fixture.lane, [], NOW));
      expect(await fixture.hash(keys.core)).toMatchObject({ ...WAITING, delay_until: "" });
      await expectOnlyIn(fixture, keys, "eligible");
      // The delay does not come back with a later dependency.
      const edge = await fixture.edge(await fixture.member(), keys);
      await fixture.done(fixture.resolution(edge, "success", NOW));
      await expectOnlyIn(fixture, keys, "eligible");
    });

    test("promoting a blocked child at its time or later ends its delay, and earlier does not", async () => {
      const blocked = await blockedChild(newFixture());
      const { fixture, child, edge, delayUntil } = blocked;
      const promote = (nowMs: number) => fixture.done(promoteDelayed(fixture.target(child), nowMs));
      const before = await fixture.snapshot();
      expect(await promote(delayUntil - 1)).toEqual(["not_delayed_cleaned"]);
      expect(await fixture.snapshot()).toEqual(before);
      expect(await promote(delayUntil)).toEqual(["not_delayed_cleaned"]);
      expect(await fixture.hash(child.core)).toMatchObject({ ...BLOCKED, delay_until: "" });
      await fixture.done(fixture.resolution(edge, "success", NOW));
      await expectOnlyIn(fixture, child, "eligible");
    });

    test("a child that is skipped while it waits for a retry leaves delayed", async () => {
      const fixture = newFixture();
      const child = await fixture.member();
      const lease = await fixture.claim(child);
      const edge = await fixture.edge(await fixture.member(), child);
      await fixture.fail(child, lease, RETRY_IN_AN_HOUR);
      await expectOnlyIn(fixture, child, "delayed");
      expect(await fixture.done(fixture.resolution(edge, "failed", NOW))).toEqual([
        "impossible",
        "child_skipped",
      ]);
      await expectOnlyIn(fixture, child, "terminal");
    });
  },
);

describe.each(DEPLOYMENTS_14)("delayed children with a group ($name)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  test("a group that is satisfied before the child's time delays the child", async () => {
    const fixture = newFixture();
    const delayUntil = (await serverTime(fixture)) + 3_600_000;
    const child = await fixture.member({ delayUntil });
    await fixture.group(child, ANY_OF);
    const edge = await fixture.edge(await fixture.member(), child);
    await fixture.done(fixture.resolution(edge, "success", NOW));
    await expectDelayed({ fixture, child, edge, delayUntil });
  });

  test("a replayed child whose later edges satisfy its group keeps its delay", async () => {
    const fixture = newFixture();
    const delayUntil = (await serverTime(fixture)) + 3_600_000;
    const child = await fixture.member({ delayUntil });
    await fixture.group(child, TWO);
    const edge = await fixture.edge(await fixture.member(), child);
    expect(await fixture.done(fixture.resolution(edge, "success", NOW))).toEqual([
      "impossible",
      "child_skipped",
    ]);
    const late = await fixture.edge(await fixture.member(), child);
    await fixture.done(fixture.resolution(late, "success", NOW));
    const replay = replayExecution(child, fixture.index, fixture.lane, [edge.id, late.id], NOW);
    expect(await fixture.done(replay)).toEqual(["0"]);
    await expectDelayed({ fixture, child, edge, delayUntil });
  });
});
