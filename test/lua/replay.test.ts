import { describe, expect, test } from "vitest";
import { replayExecution } from "#shared/contract/graph.ts";
import type { EdgeId } from "#shared/contract/ids.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import {
  expectOnlyIn,
  expectRefusal,
  expectTimeIn,
  fixturesOn,
  serverTime,
} from "#test/support/expectations.ts";
import { type FlowFixture, field } from "#test/support/flow-fixture.ts";
import { BLOCKED, ended, WAITING } from "#test/support/states.ts";
import { DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

function replay(fixture: FlowFixture, keys: ExecKeys, edges: readonly EdgeId[] = []) {
  return replayExecution(keys, fixture.index, fixture.lane, edges, 1);
}

describe.each(DEPLOYMENTS_OF_BOTH)("ff_replay_execution ($name, $edition KEYS)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  test.each(["success", "failed"] as const)(
    "an execution that ended in %s is eligible again",
    async (outcome) => {
      const fixture = newFixture();
      const keys = await fixture.member({ priority: 2 });
      await fixture.finish(keys, outcome);
      const from = await serverTime(fixture);
      expect(await fixture.done(replay(fixture, keys))).toEqual(["0"]);
      const core = await fixture.hash(keys.core);
      expect(core).toMatchObject({
        ...WAITING,
        attempt_state: "pending_replay_attempt",
        replay_count: "1",
        completed_at: "",
        total_attempt_count: "1",
      });
      expectTimeIn(field(core, "last_transition_at"), from, await serverTime(fixture));
      await expectOnlyIn(fixture, keys, "eligible", Number(field(core, "created_at")) - 2e12);
      expect(await fixture.read("xrevrange", keys.leaseHistory, "+", "-", "COUNT", 1)).toEqual([
        [
          expect.any(String),
          [
            ...["event", "replay_initiated", "ts", field(core, "last_transition_at")],
            ...["replay_count", "1", "replay_type", "normal"],
          ],
        ],
      ]);
    },
  );

  test("refuses an execution that was replayed, and has ended again, since the caller read it", async () => {
    const fixture = newFixture();
    const keys = await fixture.member();
    await fixture.finish(keys, "failed");
    const { index, lane } = fixture;
    const read = String(await fixture.read("hget", keys.core, "replay_count"));
    expect(await fixture.done(replayExecution(keys, index, lane, [], 1, read))).toEqual(["0"]);
    await fixture.finish(keys, "success");
    await expectRefusal(
      fixture,
      replayExecution(keys, index, lane, [], 1, read),
      "execution_not_terminal",
      "1",
    );
    expect(await fixture.done(replayExecution(keys, index, lane, [], 1, "1"))).toEqual(["0"]);
  });

  test("makes a skipped flow member wait again for its impossible edges only", async () => {
    const fixture = newFixture();
    const [a, b, c] = [await fixture.member(), await fixture.member(), await fixture.member()];
    const child = await fixture.member();
    const edges = [
      await fixture.edge(a, child),
      await fixture.edge(b, child),
      await fixture.edge(c, child),
    ] as const;
    await fixture.done(fixture.resolution(edges[0], "success"));
    await fixture.done(fixture.resolution(edges[1], "failed"));
    expect(
      await fixture.done(
        replay(
          fixture,
          child,
          edges.map(({ id }) => id),
        ),
      ),
    ).toEqual(["2"]);
    const core = await fixture.hash(child.core);
    expect(core).toMatchObject({
      ...BLOCKED,
      attempt_state: "pending_replay_attempt",
      replay_count: "1",
      completed_at: "",
    });
    await expectOnlyIn(fixture, child, "blockedDependencies", Number(field(core, "created_at")));
    expect(await fixture.hash(child.depsMeta)).toMatchObject({
      unsatisfied_required_count: "2",
      impossible_required_count: "0",
    });
    expect((await fixture.snapshot())[child.depsUnresolved]?.value).toEqual(
      [edges[1].id, edges[2].id].sort(),
    );
    const states = await Promise.all(
      edges.map(async ({ id }) => field(await fixture.hash(child.dep(id)), "state")),
    );
    expect(states).toEqual(["satisfied", "unsatisfied", "unsatisfied"]);
    expect(field(await fixture.hash(child.dep(edges[1].id)), "last_resolved_at")).toBe("");
  });

  test("refuses in the order of the contract, and writes nothing", async () => {
    const fixture = newFixture();
    const keys = fixture.newExecution();
    await expectRefusal(fixture, replay(fixture, keys), "execution_not_found");
    const running = await fixture.execution({ policyJson: '{"max_replay_count":1}' });
    await expectRefusal(fixture, replay(fixture, running), "execution_not_terminal");
    await fixture.finish(running, "failed");
    await fixture.done(replay(fixture, running));
    await fixture.finish(running, "failed");
    await expectRefusal(fixture, replay(fixture, running), "max_replays_exhausted", "1");
  });

  test("allows ten replays without a policy", async () => {
    const fixture = newFixture();
    const keys = await fixture.execution();
    await fixture.finish(keys, "failed");
    await fixture.read("hset", keys.core, "replay_count", "9");
    await fixture.done(replay(fixture, keys));
    await fixture.finish(keys, "failed");
    await expectRefusal(fixture, replay(fixture, keys), "max_replays_exhausted", "10");
  });

  test("refuses a skipped flow member without its edges, since it would run without them", async () => {
    const fixture = newFixture();
    const [up, child] = [await fixture.member(), await fixture.member()];
    const edge = await fixture.edge(up, child);
    await fixture.done(fixture.resolution(edge, "failed"));
    expect(await fixture.hash(child.core)).toMatchObject(ended("skipped"));
    await expectRefusal(fixture, replay(fixture, child), "invalid_input", "edges");
  });
});
