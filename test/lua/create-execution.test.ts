import { describe, expect, test } from "vitest";
import { idempotencyKey } from "#shared/contract/keys.ts";
import { createExecution } from "#shared/contract/submission.ts";
import {
  expectOnlyIn,
  expectRefusal,
  expectTimeIn,
  fixturesOn,
  serverTime,
} from "#test/support/expectations.ts";
import { field } from "#test/support/flow-fixture.ts";
import { DELAYED, WAITING } from "#test/support/states.ts";
import { DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

const DAY_MS = 86_400_000;

describe.each(DEPLOYMENTS_OF_BOTH)("ff_create_execution ($name, $edition KEYS)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  test("writes the complete record of an eligible execution", async () => {
    const fixture = newFixture();
    const from = await serverTime(fixture);
    const creation = fixture.creation({
      priority: 7,
      policyJson: '{"max_replay_count":1}',
      payload: "input",
      tagsJson: '{"team":"a b"}',
    });
    const { keys } = creation;
    expect(await fixture.done(createExecution(creation))).toEqual([keys.id, "waiting"]);
    const to = await serverTime(fixture);

    const core = await fixture.hash(keys.core);
    expect(core).toMatchObject({
      ...WAITING,
      attempt_state: "pending_first_attempt",
      execution_id: keys.id,
      namespace: "tests",
      lane_id: fixture.lane,
      current_lane: fixture.lane,
      execution_kind: "task",
      partition_id: String(keys.partition),
      priority: "7",
      creator_identity: "tests",
      total_attempt_count: "0",
      current_attempt_index: "",
      current_attempt_id: "",
      current_lease_id: "",
      current_lease_epoch: "0",
      current_worker_id: "",
      current_worker_instance_id: "",
      retry_count: "0",
      replay_count: "0",
      lease_reclaim_count: "0",
      started_at: "",
      completed_at: "",
      flow_id: "",
      delay_until: "",
    });
    for (const name of ["created_at", "last_transition_at", "last_mutation_at"]) {
      expectTimeIn(core[name], from, to);
    }
    await expectOnlyIn(fixture, keys, "eligible", Number(field(core, "created_at")) - 7e12);
    expect(await fixture.read("get", keys.payload)).toBe("input");
    expect(await fixture.read("get", keys.policy)).toBe('{"max_replay_count":1}');
    expect(await fixture.hash(keys.tags)).toEqual({ team: "a b" });
    expect(await fixture.read("smembers", fixture.index.allExecutions)).toEqual([keys.id]);
  });

  test("writes no keys for empty arguments", async () => {
    const fixture = newFixture();
    const keys = await fixture.execution();
    expect(Object.keys(await fixture.snapshot()).sort()).toEqual(
      [keys.core, fixture.index.lane(fixture.lane).eligible, fixture.index.allExecutions].sort(),
    );
  });

  test.each([
    [9_000, 9_000],
    [9_001, 9_000],
    [-1, 0],
    [2.5, 2],
  ])("clamps priority %d to %d, and computes an exact score", async (priority, counted) => {
    const fixture = newFixture();
    const keys = await fixture.execution({ priority });
    const { created_at, priority: written } = await fixture.hash(keys.core);
    expect(written).toBe(String(counted));
    await expectOnlyIn(fixture, keys, "eligible", Number(created_at) - counted * 1e12);
  });

  test("delays an execution until a future delay_until", async () => {
    const fixture = newFixture();
    const delayUntil = (await serverTime(fixture)) + DAY_MS;
    const creation = fixture.creation({ delayUntil });
    expect(await fixture.done(createExecution(creation))).toEqual([creation.keys.id, "delayed"]);
    const core = await fixture.hash(creation.keys.core);
    expect(core).toMatchObject({ ...DELAYED, delay_until: String(delayUntil) });
    await expectOnlyIn(fixture, creation.keys, "delayed", delayUntil);
  });

  test("does not delay an execution until a past delay_until, whichever zset is passed", async () => {
    const fixture = newFixture();
    const keys = await fixture.execution({ delayUntil: 1 });
    const core = await fixture.hash(keys.core);
    expect(core).toMatchObject({ ...WAITING, delay_until: "" });
    await expectOnlyIn(fixture, keys, "eligible", Number(field(core, "created_at")));
  });

  test("indexes the deadline", async () => {
    const fixture = newFixture();
    const keys = await fixture.execution({ deadlineAt: 1_999_999_999_999 });
    expect(await fixture.read("zscore", fixture.index.executionDeadline, keys.id)).toBe("1999999999999");
  });

  test("replies DUPLICATE to a second creation, and changes nothing", async () => {
    const fixture = newFixture();
    const creation = fixture.creation();
    await fixture.done(createExecution(creation));
    const before = await fixture.snapshot();
    // The policy of a duplicate is not validated.
    const again = await fixture.call(createExecution({ ...creation, payload: "other", policyJson: "{" }));
    expect(again).toEqual({ kind: "done", status: "DUPLICATE", fields: [creation.keys.id] });
    // Malformed optional arguments of a duplicate are not refused either.
    const careless = createExecution({
      ...creation,
      tagsJson: "[1]",
      policyJson: "{",
      delayUntil: Number.NaN,
    });
    expect(await fixture.call(careless)).toEqual(again);
    expect(await fixture.snapshot()).toEqual(before);
  });

  test("stores the first execution under the idempotency key for the given time", async () => {
    const fixture = newFixture();
    const idempotency = { key: idempotencyKey(fixture.flow.partition, "tests", "order-1"), ttlMs: 60_000 };
    const first = await fixture.execution({ idempotency });
    const ttl = Number(await fixture.read("pttl", idempotency.key));
    expect(ttl).toBeGreaterThan(50_000);
    expect(ttl).toBeLessThanOrEqual(60_000);
    const before = await fixture.snapshot();
    const reply = await fixture.call(createExecution(fixture.creation({ idempotency })));
    expect(reply).toEqual({ kind: "done", status: "DUPLICATE", fields: [first.id] });
    expect(await fixture.snapshot()).toEqual(before);
  });

  test("stores no idempotency key without a time to live", async () => {
    const fixture = newFixture();
    const key = idempotencyKey(fixture.flow.partition, "tests", "order-1");
    await fixture.execution({ idempotency: { key, ttlMs: 0 } });
    expect(await fixture.read("exists", key)).toBe(0);
  });

  test.each([
    [{ priority: Number.NaN }, "priority"],
    [{ priority: Number.NaN, policyJson: "{" }, "priority"],
    [{ delayUntil: 1.5 }, "delay_until"],
    [{ deadlineAt: -1 }, "execution_deadline_at"],
    [{ tagsJson: "{" }, "tags_json"],
    [{ tagsJson: '{"a":1}' }, "tags_json"],
    [{ tagsJson: '["a"]' }, "tags_json"],
  ])("refuses %o", async (overrides, argument) => {
    const fixture = newFixture();
    await expectRefusal(fixture, createExecution(fixture.creation(overrides)), "invalid_input", argument);
  });

  test("refuses a policy that is not JSON", async () => {
    const fixture = newFixture();
    await expectRefusal(
      fixture,
      createExecution(fixture.creation({ policyJson: "{" })),
      "invalid_policy_json",
      "malformed",
    );
  });
});
