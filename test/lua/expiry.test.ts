import { describe, expect, test } from "vitest";
import { completeExecution } from "#shared/contract/ownership.ts";
import { createExecution } from "#shared/contract/submission.ts";
import { changePriority, type ExpiryReason, expireExecution } from "#shared/contract/upkeep.ts";
import { subscribeToCompletions } from "#test/support/completions.ts";
import { expectOnlyIn, expectRefusal, fixturesOn, serverTime } from "#test/support/expectations.ts";
import { attempt, WORKER } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

describe.each(DEPLOYMENTS_OF_BOTH)("executions whose time is up ($name, $edition KEYS)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  test.each(["attempt_timeout", "execution_deadline"] as const)(
    "a running execution expires by its %s: out of every index, published, and its worker is refused",
    async (reason: ExpiryReason) => {
      const fixture = newFixture();
      await fixture.createFlow();
      const keys = await fixture.member();
      using feed = await subscribeToCompletions(deployment, fixture.flow.id);
      const lease = await fixture.claim(keys);
      const target = fixture.target(keys);
      const zset =
        reason === "attempt_timeout" ? fixture.index.attemptTimeout : fixture.index.executionDeadline;
      await fixture.read("zadd", zset, 5_000, keys.id);
      expect(await fixture.done(expireExecution(target, attempt(0), reason, 5_000))).toEqual([
        "expired",
        "active",
      ]);
      expect(await fixture.hash(keys.core)).toMatchObject({
        lifecycle_phase: "terminal",
        terminal_outcome: "expired",
        public_state: "expired",
        attempt_state: "attempt_terminal",
        failure_reason: reason,
        current_lease_id: "",
      });
      expect(await fixture.hash(keys.attempt(attempt(0)))).toMatchObject({
        attempt_state: "ended_failure",
        failure_reason: reason,
      });
      await expectOnlyIn(fixture, keys, "terminal");
      for (const key of [
        fixture.index.attemptTimeout,
        fixture.index.executionDeadline,
        fixture.index.leaseExpiry,
      ]) {
        expect(await fixture.read("zscore", key, keys.id), key).toBeNull();
      }
      expect(await fixture.read("sismember", fixture.index.workerLeases(WORKER.instanceId), keys.id)).toBe(0);
      expect(await fixture.read("exists", keys.leaseCurrent)).toBe(0);
      expect(JSON.parse(await feed.next())).toMatchObject({ execution_id: keys.id, outcome: "expired" });
      await expectRefusal(
        fixture,
        completeExecution(target, WORKER, lease, "late"),
        "execution_not_active",
        "expired",
        lease.epoch,
      );
    },
  );

  test("with another score than the caller read, or before its time, nothing is written", async () => {
    const fixture = newFixture();
    const keys = await fixture.execution();
    await fixture.claim(keys);
    const expire = (score: number) =>
      fixture.done(expireExecution(fixture.target(keys), attempt(0), "attempt_timeout", score));
    const later = (await serverTime(fixture)) + 60_000;
    for (const [recorded, read] of [
      [undefined, 5_000],
      [6_000, 5_000],
      [later, later],
    ] as const) {
      if (recorded !== undefined) await fixture.read("zadd", fixture.index.attemptTimeout, recorded, keys.id);
      const before = await fixture.snapshot();
      expect(await expire(read)).toEqual(["not_due"]);
      expect(await fixture.snapshot()).toEqual(before);
    }
  });

  test("an execution that waits for a worker, a time or its upstreams expires out of its index", async () => {
    const fixture = newFixture();
    await fixture.createFlow();
    const [upstream, blocked, eligible] = [
      await fixture.member(),
      await fixture.member(),
      await fixture.member(),
    ];
    await fixture.edge(upstream, blocked);
    const delayed = fixture.newExecution();
    await fixture.done(
      createExecution({
        keys: delayed,
        index: fixture.index,
        namespace: "default",
        lane: fixture.lane,
        kind: "task",
        priority: 0,
        creator: "test",
        policyJson: "",
        payload: "",
        delayUntil: (await serverTime(fixture)) + 60_000,
      }),
    );
    await expectOnlyIn(fixture, delayed, "delayed");
    for (const keys of [blocked, eligible, delayed]) {
      await fixture.read("zadd", fixture.index.executionDeadline, 1, keys.id);
      expect(
        await fixture.done(expireExecution(fixture.target(keys), attempt(0), "execution_deadline", 1)),
      ).toEqual(["expired", "runnable"]);
      await expectOnlyIn(fixture, keys, "terminal");
    }
  });

  test("an execution that is gone or has ended loses its entries, and nothing else changes", async () => {
    const fixture = newFixture();
    const [gone, ended] = [fixture.newExecution(), await fixture.execution()];
    await fixture.finish(ended, "success");
    for (const [keys, word] of [
      [gone, "not_found_cleaned"],
      [ended, "already_terminal"],
    ] as const) {
      const before = await fixture.snapshot();
      await fixture.read("zadd", fixture.index.attemptTimeout, 1, keys.id);
      await fixture.read("zadd", fixture.index.executionDeadline, 1, keys.id);
      expect(
        await fixture.done(expireExecution(fixture.target(keys), attempt(0), "attempt_timeout", 1)),
      ).toEqual([word]);
      expect(await fixture.snapshot()).toEqual(before);
    }
  });

  test("ff_change_priority moves an eligible execution, and no other", async () => {
    const fixture = newFixture();
    const [first, second] = [await fixture.execution(), await fixture.execution()];
    const { eligible } = fixture.index.lane(fixture.lane);
    await fixture.read("hset", second.core, "created_at", "2000000000000");
    expect(await fixture.done(changePriority(fixture.target(second), 10_000))).toEqual(["0", "9000"]);
    expect(await fixture.read("zrange", eligible, 0, 0)).toEqual([second.id]);
    expect(await fixture.read("hget", second.core, "priority")).toBe("9000");
    await expectRefusal(
      fixture,
      changePriority(fixture.target(first), Number.NaN),
      "invalid_input",
      "priority",
    );
    await expectRefusal(
      fixture,
      changePriority(fixture.target(fixture.newExecution()), 1),
      "execution_not_found",
    );
    await fixture.claim(first);
    await expectRefusal(
      fixture,
      changePriority(fixture.target(first), 1),
      "execution_not_eligible",
      "active",
      "not_applicable",
    );
  });
});
