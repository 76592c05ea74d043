import { describe, expect, test } from "vitest";
import { replayExecution } from "#shared/contract/graph.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { completeExecution } from "#shared/contract/ownership.ts";
import { fieldText, type TerminalOutcome } from "#shared/contract/record.ts";
import { parseSkipRoot, SKIP_FIELDS, type SkipRoot } from "#shared/contract/skip.ts";
import { markLeaseExpiredIfDue, revokeLease } from "#shared/contract/upkeep.ts";
import { ANY_OF, groupedChild } from "#test/lua/grouped-child.ts";
import { subscribeToCompletions } from "#test/support/completions.ts";
import { expectOnlyIn, expectRefusal, fixturesOn } from "#test/support/expectations.ts";
import { type FlowFixture, WORKER } from "#test/support/flow-fixture.ts";
import { ended } from "#test/support/states.ts";
import { DEPLOYMENTS_14, DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

const NOW = 1_234_567_890_123;
const DEADLINE = 1_999_999_999_999;

/** Expects that no index of the partition, and no lease, names the execution as running or due. */
async function expectNothingDue(fixture: FlowFixture, keys: ExecKeys): Promise<void> {
  const { index } = fixture;
  for (const zset of [index.leaseExpiry, index.attemptTimeout, index.executionDeadline]) {
    expect(await fixture.read("zscore", zset, keys.id), zset).toBeNull();
  }
  expect(await fixture.read("sismember", index.workerLeases(WORKER.instanceId), keys.id)).toBe(0);
  expect(await fixture.read("exists", keys.leaseCurrent)).toBe(0);
}

describe.each(DEPLOYMENTS_OF_BOTH)("a skipped child ($name, $edition KEYS)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  test("is published if it is a member of a flow", async () => {
    const fixture = newFixture();
    using feed = await subscribeToCompletions(deployment, fixture.flow.id);
    const required = await groupedChild(fixture, undefined, 1);
    await required.resolve(0, "failed");
    await required.resolve(0, "failed");
    const event = (keys: ExecKeys, outcome: string) =>
      `{"execution_id":"${keys.id}","flow_id":"${fixture.flow.id}","outcome":"${outcome}"}`;
    const expected = [event(required.child, "skipped")];
    if (deployment.edition === 14) {
      const grouped = await groupedChild(fixture, ANY_OF, 1);
      await grouped.resolve(0, "failed");
      await grouped.resolve(0, "failed");
      expected.push(event(grouped.child, "skipped"));
    }
    // This event arrives in order: events missing before it were never published, and none came twice.
    const last = await fixture.member();
    await fixture.cancel(last);
    expected.push(event(last, "cancelled"));
    for (const one of expected) expect(await feed.next()).toBe(one);
  });

  test("is not published outside a flow", async () => {
    const fixture = newFixture();
    using feed = await subscribeToCompletions(deployment, `{fp:${fixture.flow.partition}}`);
    const { child, resolve } = await groupedChild(fixture, undefined, 1);
    await fixture.read("hset", child.core, "flow_id", "");
    expect(await resolve(0, "failed")).toEqual(["impossible", "child_skipped"]);
    const last = await fixture.member();
    await fixture.cancel(last);
    expect(JSON.parse(await feed.next())).toMatchObject({ execution_id: last.id, outcome: "cancelled" });
  });

  test("leaves execution_deadline", async () => {
    const fixture = newFixture();
    const child = await fixture.member({ deadlineAt: DEADLINE });
    const edge = await fixture.edge(await fixture.member(), child);
    await fixture.done(fixture.resolution(edge, "failed", NOW));
    await expectNothingDue(fixture, child);
  });

  test.each(["running", "expired", "revoked"] as const)(
    "that is %s leaves every index, and its worker is refused",
    async (state) => {
      const fixture = newFixture();
      const child = await fixture.member({ deadlineAt: DEADLINE });
      const lease = await fixture.claim(child);
      await fixture.read("zadd", fixture.index.attemptTimeout, DEADLINE, child.id);
      const target = fixture.target(child);
      if (state === "expired") {
        await fixture.read("hset", child.core, "lease_expires_at", "1000");
        await fixture.done(markLeaseExpiredIfDue(target));
      }
      if (state === "revoked") await fixture.done(revokeLease(target, WORKER.instanceId, "", "drain"));
      const edge = await fixture.edge(await fixture.member(), child);
      expect(await fixture.done(fixture.resolution(edge, "failed", NOW))).toEqual([
        "impossible",
        "child_skipped",
      ]);
      await expectOnlyIn(fixture, child, "terminal", NOW);
      await expectNothingDue(fixture, child);
      expect(await fixture.hash(child.core)).toMatchObject({
        ...ended("skipped"),
        attempt_state: "attempt_terminal",
        current_lease_id: "",
        current_worker_id: "",
        current_worker_instance_id: "",
        current_lease_epoch: lease.epoch,
        lease_acquired_at: "",
        lease_expires_at: "",
        lease_last_renewed_at: "",
        lease_renewal_deadline: "",
      });
      await expectRefusal(
        fixture,
        completeExecution(target, WORKER, lease, "late"),
        "execution_not_active",
        "skipped",
        lease.epoch,
      );
    },
  );

  test("that is suspended leaves the zsets of suspended executions", async () => {
    const fixture = newFixture();
    const child = await fixture.member();
    await fixture.claim(child);
    const edge = await fixture.edge(await fixture.member(), child);
    // Sluice's library never suspends: FlowFabric's does, and its records stay.
    const { suspended, active } = fixture.index.lane(fixture.lane);
    await fixture.read(
      "hset",
      child.core,
      ...[
        "lifecycle_phase",
        "suspended",
        "ownership_state",
        "unowned",
        "attempt_state",
        "attempt_interrupted",
      ],
    );
    await fixture.read("zrem", active, child.id);
    await fixture.read("zadd", suspended, 1, child.id);
    await fixture.read("zadd", fixture.index.suspensionTimeout, DEADLINE, child.id);
    await fixture.done(fixture.resolution(edge, "failed", NOW));
    await expectOnlyIn(fixture, child, "terminal", NOW);
    expect(await fixture.read("zscore", fixture.index.suspensionTimeout, child.id)).toBeNull();
  });
});

/** The root that a record names. */
async function rootOf(fixture: FlowFixture, { core }: ExecKeys): Promise<SkipRoot | undefined> {
  const values = await fixture.read("hmget", core, ...SKIP_FIELDS);
  return parseSkipRoot((values as unknown[]).map(fieldText));
}

describe.each(DEPLOYMENTS_OF_BOTH)("the root of a skip ($name, $edition KEYS)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  /** A chain of `levels` executions below an upstream, each skipped because of the one above it. */
  async function skippedBelow(
    fixture: FlowFixture,
    upstream: ExecKeys,
    outcome: TerminalOutcome,
    levels = 1,
  ): Promise<ExecKeys[]> {
    const chain: ExecKeys[] = [];
    let above = upstream;
    for (let level = 0; level < levels; level += 1) {
      const child = await fixture.member();
      const edge = await fixture.edge(above, child);
      await fixture.done(fixture.resolution(edge, level === 0 ? outcome : "skipped", NOW));
      chain.push(child);
      above = child;
    }
    return chain;
  }

  test("is the failed execution, with its reason, at every level below it", async () => {
    const fixture = newFixture();
    const root = await fixture.member();
    await fixture.finish(root, "failed");
    const chain = await skippedBelow(fixture, root, "failed", 5);
    for (const child of chain) {
      expect(await rootOf(fixture, child)).toEqual({ execution: root.id, reason: "failed: it broke" });
    }
    expect(await rootOf(fixture, root)).toBeUndefined();
  });

  test("is the cancelled execution, with the reason of its cancellation", async () => {
    const fixture = newFixture();
    const root = await fixture.member();
    await fixture.finish(root, "failed");
    await fixture.done(replayExecution(root, fixture.index, fixture.lane, [], 0));
    await fixture.cancel(root);
    const [child] = await skippedBelow(fixture, root, "cancelled");
    expect(await rootOf(fixture, child as ExecKeys)).toEqual({
      execution: root.id,
      reason: "cancelled: not wanted",
    });
  });

  test("has a reason of whole characters and at most 64 bytes", async () => {
    const fixture = newFixture();
    const root = await fixture.member();
    await fixture.finish(root, "failed");
    await fixture.read("hset", root.core, "failure_reason", `${"x".repeat(54)}äöü`);
    const [child] = await skippedBelow(fixture, root, "failed");
    // "failed: " and the x take 62 bytes, each umlaut 2.
    expect((await rootOf(fixture, child as ExecKeys))?.reason).toBe(`failed: ${"x".repeat(54)}ä`);
    await fixture.read("hset", root.core, "failure_reason", `${"x".repeat(55)}äöü`);
    const [other] = await skippedBelow(fixture, root, "failed");
    expect((await rootOf(fixture, other as ExecKeys))?.reason).toBe(`failed: ${"x".repeat(55)}`);
  });

  test("is unknown below an execution that another library skipped", async () => {
    const fixture = newFixture();
    const root = await fixture.member();
    await fixture.finish(root, "failed");
    const [child] = await skippedBelow(fixture, root, "failed");
    await fixture.read("hdel", (child as ExecKeys).core, "skip_root", "skip_reason");
    const [grandchild] = await skippedBelow(fixture, child as ExecKeys, "skipped");
    expect(await rootOf(fixture, grandchild as ExecKeys)).toBeUndefined();
    expect(await fixture.hash((grandchild as ExecKeys).core)).toMatchObject(ended("skipped"));
  });

  test("is forgotten by a replay, and recorded again by the next skip", async () => {
    const fixture = newFixture();
    const [first, second] = [await fixture.member(), await fixture.member()];
    const child = await fixture.member();
    const edges = [await fixture.edge(first, child), await fixture.edge(second, child)] as const;
    await fixture.finish(first, "failed");
    await fixture.done(fixture.resolution(edges[0], "failed", NOW));
    expect((await rootOf(fixture, child))?.execution).toBe(first.id);
    const ids = edges.map(({ id }) => id);
    await fixture.done(replayExecution(child, fixture.index, fixture.lane, ids, 0));
    expect(await fixture.hash(child.core)).not.toHaveProperty("skip_root");
    expect(await fixture.hash(child.core)).not.toHaveProperty("skip_reason");
    await fixture.cancel(second);
    await fixture.done(fixture.resolution(edges[1], "cancelled", NOW));
    expect(await rootOf(fixture, child)).toEqual({ execution: second.id, reason: "cancelled: not wanted" });
  });
});

describe.each(DEPLOYMENTS_14)("the root of a skip ($name)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  test("of a group is the upstream that decided it", async () => {
    const fixture = newFixture();
    const [first, second, child] = [await fixture.member(), await fixture.member(), await fixture.member()];
    await fixture.group(child, ANY_OF);
    const edges = [await fixture.edge(first, child), await fixture.edge(second, child)] as const;
    await fixture.finish(first, "failed");
    await fixture.cancel(second);
    await fixture.done(fixture.resolution(edges[0], "failed", NOW));
    expect(await rootOf(fixture, child)).toBeUndefined();
    await fixture.done(fixture.resolution(edges[1], "cancelled", NOW));
    expect(await rootOf(fixture, child)).toEqual({ execution: second.id, reason: "cancelled: not wanted" });
  });
});
