import { describe, expect, test } from "vitest";
import { promoteBlockedToEligible, replayExecution } from "#shared/contract/graph.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { promoteDelayed } from "#shared/contract/ownership.ts";
import { fixturesOn, serverTime } from "#test/support/expectations.ts";
import { attempt, type FlowFixture } from "#test/support/flow-fixture.ts";
import { ended } from "#test/support/states.ts";
import { DEPLOYMENTS_OF_BOTH, fieldsOf } from "#test/support/valkey.ts";

const NOW = 1_234_567_890_123;
const ID_OR_TIME = /\{fp:\d+\}:|[0-9a-f-]{36}|\b\d{13}\b/g;
const RETRY = '{"max_retries":1,"backoff":{"type":"fixed","delay_ms":0}}';

/** Rewrites a hash with its fields in reverse order. Records of another library may have any order. */
async function reverse(fixture: FlowFixture, key: string): Promise<void> {
  const fields = Object.entries(await fixture.hash(key)).reverse();
  await fixture.read("del", key);
  if (fields.length > 0) await fixture.read("hset", key, ...fields.flat());
}

/** Runs the fixture's child through a life cycle. Calls `disturb` before each step. */
type Life = (
  fixture: FlowFixture,
  child: ExecKeys,
  up: ExecKeys,
  disturb: () => Promise<void>,
) => Promise<void>;

const LIVES: readonly (readonly [name: string, life: Life])[] = [
  [
    "blocked and released",
    async (fixture, child, up, disturb) => {
      await disturb();
      const edge = await fixture.edge(up, child);
      await disturb();
      await fixture.done(fixture.resolution(edge, "success", NOW));
    },
  ],
  [
    "skipped and replayed",
    async (fixture, child, up, disturb) => {
      const edge = await fixture.edge(up, child);
      await disturb();
      await fixture.done(fixture.resolution(edge, "failed", NOW));
      await disturb();
      await fixture.done(replayExecution(child, fixture.index, fixture.lane, [edge.id], 0));
    },
  ],
  [
    "skipped during an attempt",
    async (fixture, child, up, disturb) => {
      await fixture.claim(child);
      const edge = await fixture.edge(up, child);
      await disturb();
      await fixture.done(fixture.resolution(edge, "failed", NOW));
    },
  ],
  [
    "promoted",
    async (fixture, child, up, disturb) => {
      await fixture.edge(up, child);
      await fixture.read("hset", child.depsMeta, "unsatisfied_required_count", "0");
      await fixture.read("del", child.depsUnresolved);
      await disturb();
      await fixture.done(promoteBlockedToEligible(child, fixture.index, fixture.lane, NOW));
    },
  ],
  [
    "claimed and completed",
    async (fixture, child, _, disturb) => {
      await disturb();
      const lease = await fixture.claim(child);
      await disturb();
      await fixture.complete(child, lease, "result");
    },
  ],
  [
    "failed, retried and failed again",
    async (fixture, child, _, disturb) => {
      await fixture.fail(child, await fixture.claim(child), RETRY);
      await disturb();
      expect(await fixture.done(promoteDelayed(fixture.target(child), Date.now() + 60_000))).toEqual([
        "promoted",
      ]);
      const lease = await fixture.claim(child);
      await disturb();
      await fixture.fail(child, lease, RETRY);
    },
  ],
  [
    "cancelled",
    async (fixture, child, _, disturb) => {
      await fixture.claim(child);
      await disturb();
      await fixture.cancel(child);
    },
  ],
];

/** Returns the child's indexes and records, without ids and times. */
async function outlineOf(fixture: FlowFixture, child: ExecKeys): Promise<unknown> {
  const lanes: Record<string, boolean> = {};
  for (const [name, key] of Object.entries(fixture.index.lane(fixture.lane))) {
    lanes[name] = (await fixture.read("zscore", String(key), child.id)) !== null;
  }
  const records: Record<string, string> = {};
  for (const key of [child.core, child.depsMeta]) {
    for (const [field, value] of Object.entries(await fixture.hash(key))) {
      records[field] = field === "partition_id" ? "…" : value.replaceAll(ID_OR_TIME, "…");
    }
  }
  return { lanes, records };
}

describe.each(DEPLOYMENTS_OF_BOTH)("the order of a record's fields ($name, $edition KEYS)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  test.each(LIVES)("does not matter for an execution that is %s", async (_, life) => {
    const outlines: unknown[] = [];
    for (const isDisturbed of [false, true]) {
      const fixture = newFixture();
      const [up, child] = [await fixture.member(), await fixture.member({ priority: 2 })];
      await life(fixture, child, up, async () => {
        for (const key of isDisturbed ? [child.core, child.depsMeta] : []) await reverse(fixture, key);
      });
      outlines.push(await outlineOf(fixture, child));
    }
    expect(outlines[1]).toEqual(outlines[0]);
  });

  test("starts with the fields that resolving reads, in a new record", async () => {
    const fixture = newFixture();
    const fields = Object.keys(fieldsOf(await fixture.read("hgetall", (await fixture.member()).core)));
    expect(fields.slice(0, 14)).toEqual([
      ...["lifecycle_phase", "ownership_state", "eligibility_state", "blocking_reason", "terminal_outcome"],
      ...["attempt_state", "public_state", "last_transition_at", "last_mutation_at", "blocking_detail"],
      ...["execution_id", "created_at", "priority", "lane_id"],
    ]);
  });

  test("no record has an empty field, but for the detail of an execution that has not ended", async () => {
    const fixture = newFixture();
    const empty = async (key: string) =>
      Object.entries(fieldsOf(await fixture.read("hgetall", key))).flatMap(([name, value]) =>
        value === "" ? [name] : [],
      );
    const delayUntil = (await serverTime(fixture)) + 60_000;
    const [up, child] = [await fixture.member({ delayUntil }), await fixture.member()];
    expect(await empty(up.core)).toEqual(["blocking_detail"]);
    const edge = await fixture.edge(up, child);
    for (const key of [child.dep(edge.id), fixture.flow.edge(edge.id), child.depsMeta]) {
      expect(await empty(key)).toEqual([]);
    }
    await fixture.done(promoteDelayed(fixture.target(up), delayUntil));
    expect(await empty(up.core)).toEqual(["blocking_detail"]);
    await fixture.finish(up, "success");
    await fixture.done(fixture.resolution(edge, "success"));
    await fixture.finish(child, "failed");
    for (const keys of [up, child]) {
      for (const key of [keys.core, keys.attempt(attempt(0))]) expect(await empty(key)).toEqual([]);
    }
    expect(await empty(child.dep(edge.id))).toEqual([]);
  });

  test("a detail that another library wrote does not outlive the execution's end", async () => {
    const fixture = newFixture();
    for (const end of ["success", "failed", "cancelled", "skipped"] as const) {
      const [up, keys] = [await fixture.member(), await fixture.member()];
      const edge = end === "skipped" ? await fixture.edge(up, keys) : undefined;
      await fixture.read("hset", keys.core, "blocking_detail", "waits for something");
      if (edge !== undefined) await fixture.done(fixture.resolution(edge, "failed"));
      else if (end === "cancelled") await fixture.cancel(keys);
      else if (end === "success" || end === "failed") await fixture.finish(keys, end);
      expect(await fixture.hash(keys.core)).toMatchObject(ended(end));
    }
  });
});

describe.each(DEPLOYMENTS_OF_BOTH)("unreadable and partial records ($name, $edition KEYS)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  test.each(["core", "depsMeta", "dep", "depsUnresolved"] as const)(
    "ff_resolve_dependency writes nothing if the key %s has the wrong type",
    async (broken) => {
      for (const outcome of ["success", "failed"] as const) {
        const fixture = newFixture();
        const [up, child] = [await fixture.member(), await fixture.member()];
        const edge = await fixture.edge(up, child, "input");
        await fixture.finish(up, "success", "result");
        const key = broken === "dep" ? child.dep(edge.id) : child[broken];
        await fixture.read("set", key, "no such thing");
        const before = await fixture.snapshot();
        await expect(fixture.done(fixture.resolution(edge, outcome, NOW))).rejects.toThrow("WRONGTYPE");
        expect(await fixture.snapshot()).toEqual(before);
      }
    },
  );

  test("ff_resolve_dependency neither releases nor skips a child with a partial record", async () => {
    for (const outcome of ["success", "failed"] as const) {
      const fixture = newFixture();
      const [up, child] = [await fixture.member(), await fixture.member()];
      const edge = await fixture.edge(up, child);
      await fixture.read("hdel", child.core, "execution_id");
      const before = await fixture.hash(child.core);
      const state = outcome === "success" ? "satisfied" : "impossible";
      expect(await fixture.done(fixture.resolution(edge, outcome, NOW))).toEqual([state, ""]);
      expect(await fixture.hash(child.core)).toEqual(before);
    }
  });
});
