import { describe, expect, test } from "vitest";
import { promoteBlockedToEligible, replayExecution } from "#shared/contract/graph.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { promoteDelayed } from "#shared/contract/ownership.ts";
import { scenesOn } from "#test/support/expectations.ts";
import type { Scene } from "#test/support/scene.ts";
import { DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

const NOW = 1_234_567_890_123;
const ID_OR_TIME = /\{fp:\d+\}:|[0-9a-f-]{36}|\b\d{13}\b/g;
const RETRY = '{"max_retries":1,"backoff":{"type":"fixed","delay_ms":0}}';

/** Writes a hash anew, its fields in the opposite order: a record that somebody else made has them in any. */
async function reverse(scene: Scene, key: string): Promise<void> {
  const fields = Object.entries(await scene.hash(key)).reverse();
  await scene.read("del", key);
  if (fields.length > 0) await scene.read("hset", key, ...fields.flat());
}

/** Brings the scene's child somewhere; calls `disturb` before each step. */
type Life = (scene: Scene, child: ExecKeys, up: ExecKeys, disturb: () => Promise<void>) => Promise<void>;

const LIVES: readonly (readonly [name: string, life: Life])[] = [
  [
    "blocked and released",
    async (scene, child, up, disturb) => {
      await disturb();
      const edge = await scene.edge(up, child);
      await disturb();
      await scene.done(scene.resolution(edge, "success", NOW));
    },
  ],
  [
    "skipped and replayed",
    async (scene, child, up, disturb) => {
      const edge = await scene.edge(up, child);
      await disturb();
      await scene.done(scene.resolution(edge, "failed", NOW));
      await disturb();
      await scene.done(replayExecution(child, scene.index, scene.lane, [edge.id], 0));
    },
  ],
  [
    "skipped amid an attempt",
    async (scene, child, up, disturb) => {
      await scene.claim(child);
      const edge = await scene.edge(up, child);
      await disturb();
      await scene.done(scene.resolution(edge, "failed", NOW));
    },
  ],
  [
    "promoted",
    async (scene, child, up, disturb) => {
      await scene.edge(up, child);
      await scene.read("hset", child.depsMeta, "unsatisfied_required_count", "0");
      await scene.read("del", child.depsUnresolved);
      await disturb();
      await scene.done(promoteBlockedToEligible(child, scene.index, scene.lane, NOW));
    },
  ],
  [
    "claimed and completed",
    async (scene, child, _, disturb) => {
      await disturb();
      const lease = await scene.claim(child);
      await disturb();
      await scene.complete(child, lease, "result");
    },
  ],
  [
    "failed, retried and failed again",
    async (scene, child, _, disturb) => {
      await scene.fail(child, await scene.claim(child), RETRY);
      await disturb();
      await scene.done(promoteDelayed(scene.target(child), NOW));
      const lease = await scene.claim(child);
      await disturb();
      await scene.fail(child, lease, RETRY);
    },
  ],
  [
    "cancelled",
    async (scene, child, _, disturb) => {
      await scene.claim(child);
      await disturb();
      await scene.cancel(child);
    },
  ],
];

/** Where the child stands and what its records say, with no id or time in it. */
async function outlineOf(scene: Scene, child: ExecKeys): Promise<unknown> {
  const lanes: Record<string, boolean> = {};
  for (const [name, key] of Object.entries(scene.index.lane(scene.lane))) {
    lanes[name] = (await scene.read("zscore", String(key), child.id)) !== null;
  }
  const records: Record<string, string> = {};
  for (const key of [child.core, child.depsMeta]) {
    for (const [field, value] of Object.entries(await scene.hash(key))) {
      records[field] = field === "partition_id" ? "…" : value.replaceAll(ID_OR_TIME, "…");
    }
  }
  return { lanes, records };
}

describe.each(DEPLOYMENTS_OF_BOTH)("the order of a record's fields on $name, $edition KEYS", (deployment) => {
  const newScene = scenesOn(deployment);

  test.each(LIVES)("changes nothing for one that is %s", async (_, life) => {
    const outlines: unknown[] = [];
    for (const isDisturbed of [false, true]) {
      const scene = newScene();
      const [up, child] = [await scene.member(), await scene.member({ priority: 2 })];
      await life(scene, child, up, async () => {
        for (const key of isDisturbed ? [child.core, child.depsMeta] : []) await reverse(scene, key);
      });
      outlines.push(await outlineOf(scene, child));
    }
    expect(outlines[1]).toEqual(outlines[0]);
  });

  test("what resolving reads stands first in a record that our library makes", async () => {
    const scene = newScene();
    const fields = Object.keys(await scene.hash((await scene.member()).core));
    expect(fields.slice(0, 17)).toEqual([
      ...["lifecycle_phase", "ownership_state", "eligibility_state", "blocking_reason", "blocking_detail"],
      ...["terminal_outcome", "attempt_state", "public_state", "last_transition_at", "last_mutation_at"],
      ...["execution_id", "created_at", "priority", "lane_id", "current_attempt_index", "completed_at"],
      "flow_id",
    ]);
  });
});

describe.each(DEPLOYMENTS_OF_BOTH)("a read that fails on $name, $edition KEYS", (deployment) => {
  const newScene = scenesOn(deployment);

  test.each(["core", "depsMeta", "dep", "depsUnresolved"] as const)(
    "leaves no write of ff_resolve_dependency behind: %s is something else",
    async (broken) => {
      for (const outcome of ["success", "failed"] as const) {
        const scene = newScene();
        const [up, child] = [await scene.member(), await scene.member()];
        const edge = await scene.edge(up, child, "input");
        await scene.finish(up, "success", "result");
        const key = broken === "dep" ? child.dep(edge.id) : child[broken];
        await scene.read("set", key, "no such thing");
        const before = await scene.snapshot();
        await expect(scene.done(scene.resolution(edge, outcome, NOW))).rejects.toThrow("WRONGTYPE");
        expect(await scene.snapshot()).toEqual(before);
      }
    },
  );

  test("a child whose record is gone but for some fields is neither released nor skipped", async () => {
    for (const outcome of ["success", "failed"] as const) {
      const scene = newScene();
      const [up, child] = [await scene.member(), await scene.member()];
      const edge = await scene.edge(up, child);
      await scene.read("hdel", child.core, "execution_id");
      const before = await scene.hash(child.core);
      const state = outcome === "success" ? "satisfied" : "impossible";
      expect(await scene.done(scene.resolution(edge, outcome, NOW))).toEqual([state, ""]);
      expect(await scene.hash(child.core)).toEqual(before);
    }
  });
});
