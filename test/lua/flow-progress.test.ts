import { describe, expect, test } from "vitest";
import { replayExecution } from "#shared/contract/graph.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { countMembers } from "#shared/contract/retention.ts";
import { addExecutionToFlow } from "#shared/contract/submission.ts";
import { expireExecution, reclaimExecution } from "#shared/contract/upkeep.ts";
import { expectRefusal, expectTimeIn, fixturesOn, serverTime } from "#test/support/expectations.ts";
import { attempt, type FlowFixture, WORKER } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

const RECLAIM = {
  leaseId: "a lease",
  attemptId: "an attempt",
  leaseTtlMs: 60_000,
  interrupted: attempt(0),
  limit: 0,
};

/** Ways to end an eligible execution, by the state that the flow counts. */
const ENDS: Readonly<Record<string, (fixture: FlowFixture, keys: ExecKeys) => Promise<unknown>>> = {
  completed: (fixture, keys) => fixture.finish(keys, "success"),
  failed: (fixture, keys) => fixture.finish(keys, "failed"),
  cancelled: (fixture, keys) => fixture.cancel(keys, "flow_cascade"),
  expired: async (fixture, keys) => {
    await fixture.read("zadd", fixture.index.attemptTimeout, 5_000, keys.id);
    await fixture.done(expireExecution(fixture.target(keys), attempt(0), "attempt_timeout", 5_000));
  },
  skipped: async (fixture, keys) => {
    const up = await fixture.execution();
    await fixture.done(addExecutionToFlow(fixture.flow, fixture.index, up, 0));
    await fixture.done(fixture.resolution(await fixture.edge(up, keys), "failed"));
  },
};

describe.each(DEPLOYMENTS_OF_BOTH)("the progress of a flow ($name, $edition KEYS)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  const summaryOf = (fixture: FlowFixture) => fixture.hash(fixture.flow.summary);
  const endOf = (fixture: FlowFixture) => fixture.read("zscore", fixture.index.flowsEnded, fixture.flow.id);
  const add = (fixture: FlowFixture, keys: ExecKeys) =>
    fixture.call(addExecutionToFlow(fixture.flow, fixture.index, keys, 0));

  /** A flow as FlowFabric and Sluice 0.1 leave it. */
  const uncount = async (fixture: FlowFixture): Promise<void> => {
    await fixture.read("del", fixture.flow.summary);
    await fixture.read("zrem", fixture.index.flowsEnded, fixture.flow.id);
  };

  test.each(Object.keys(ENDS))(
    "a member that is %s is counted once, and a replay takes it back",
    async (state) => {
      const fixture = newFixture();
      const keys = await fixture.member();
      const other = await fixture.member();
      await ENDS[state]?.(fixture, keys);
      const total = state === "skipped" ? "3" : "2";
      const open = state === "skipped" ? "2" : "1";
      const counted = { total_members: total, members_open: open, [`members_${state}`]: "1" };
      expect(await summaryOf(fixture)).toEqual(counted);
      expect(await endOf(fixture)).toBeNull();

      const edges = (await fixture.read("smembers", fixture.flow.incoming(keys.id))) as string[];
      const command = replayExecution(keys, fixture.index, fixture.lane, edges as never, 0);
      await fixture.done(command);
      expect(await summaryOf(fixture)).toEqual({
        ...counted,
        members_open: state === "skipped" ? "3" : "2",
        [`members_${state}`]: "0",
      });
      await expectRefusal(fixture, command, "execution_not_terminal");
      await fixture.cancel(other);
      expect(await endOf(fixture)).toBeNull();
    },
  );

  test("a scheduled retry counts nothing, and reaching the reclaim limit counts a failed member", async () => {
    const fixture = newFixture();
    const keys = await fixture.member();
    const before = await summaryOf(fixture);
    await fixture.fail(keys, await fixture.claim(keys), '{"max_retries":1,"backoff":{"delay_ms":0}}');
    expect(await summaryOf(fixture)).toEqual(before);

    const reclaimed = await fixture.member();
    await fixture.claim(reclaimed);
    await fixture.read("hset", reclaimed.core, "ownership_state", "lease_expired_reclaimable");
    const reply = await fixture.call(reclaimExecution(fixture.target(reclaimed), WORKER, RECLAIM));
    expect(reply).toMatchObject({ kind: "refused", code: "max_retries_exhausted" });
    expect(await summaryOf(fixture)).toEqual({ total_members: "2", members_open: "1", members_failed: "1" });
  });

  test("the last member to end puts the flow among the ended ones; a new member or a replay takes it out", async () => {
    const fixture = newFixture();
    const [one, two] = [await fixture.member(), await fixture.member()];
    await fixture.finish(one, "success");
    expect(await endOf(fixture)).toBeNull();
    const from = await serverTime(fixture);
    await fixture.finish(two, "failed");
    expectTimeIn(String(await endOf(fixture)), from, await serverTime(fixture));

    await fixture.done(replayExecution(two, fixture.index, fixture.lane, [], 0));
    expect(await endOf(fixture)).toBeNull();
    await fixture.finish(two, "success");
    expect(await endOf(fixture)).not.toBeNull();

    const three = await fixture.execution();
    await add(fixture, three);
    expect(await endOf(fixture)).toBeNull();
    expect(await summaryOf(fixture)).toEqual({
      total_members: "3",
      members_open: "1",
      members_completed: "2",
      members_failed: "0",
    });
    await fixture.cancel(three);
    expect(await endOf(fixture)).not.toBeNull();
  });

  test("a member that is added twice counts once, whatever happened in between", async () => {
    const fixture = newFixture();
    const keys = await fixture.member();
    expect(await add(fixture, keys)).toMatchObject({ status: "ALREADY_SATISFIED" });
    await fixture.finish(keys, "success");
    const [summary, end] = [await summaryOf(fixture), await endOf(fixture)];
    expect(await add(fixture, keys)).toMatchObject({ status: "ALREADY_SATISFIED" });
    expect(await summaryOf(fixture)).toEqual(summary);
    expect(await endOf(fixture)).toBe(end);
  });

  test("an execution that ended before it became a member is counted when it is added", async () => {
    const fixture = newFixture();
    await fixture.createFlow();
    const [first, second] = [await fixture.execution(), await fixture.execution()];
    await fixture.finish(first, "failed");
    expect(await summaryOf(fixture)).toEqual({});
    await add(fixture, first);
    expect(await summaryOf(fixture)).toEqual({ total_members: "1", members_open: "0", members_failed: "1" });
    expect(await endOf(fixture)).not.toBeNull();
    await add(fixture, second);
    expect(await endOf(fixture)).toBeNull();
    await fixture.cancel(second);
    expect(await endOf(fixture)).not.toBeNull();
  });

  test("an execution outside any flow counts nowhere", async () => {
    const fixture = newFixture();
    const keys = await fixture.execution();
    await fixture.finish(keys, "success");
    await fixture.done(replayExecution(keys, fixture.index, fixture.lane, [], 0));
    const names = Object.keys(await fixture.snapshot());
    expect(names.filter((name) => /:summary$|flows_ended$/.test(name))).toEqual([]);
  });

  test("a flow without counts stays without, until its members are counted", async () => {
    const fixture = newFixture();
    const [one, two, three] = [await fixture.member(), await fixture.member(), await fixture.member()];
    await fixture.finish(one, "success");
    await uncount(fixture);
    await fixture.finish(two, "failed");
    await fixture.done(replayExecution(two, fixture.index, fixture.lane, [], 0));
    const four = await fixture.execution();
    await add(fixture, four);
    await fixture.cancel(four);
    expect(await summaryOf(fixture)).toEqual({});

    expect(await fixture.done(countMembers(fixture.flow))).toEqual(["2", "4"]);
    expect(await summaryOf(fixture)).toEqual({
      total_members: "4",
      members_open: "2",
      members_completed: "1",
      members_cancelled: "1",
    });
    await fixture.finish(two, "success");
    await fixture.cancel(three);
    expect(await endOf(fixture)).not.toBeNull();
  });

  test("FlowFabric's projection of a sample is not mistaken for counts", async () => {
    const fixture = newFixture();
    const keys = await fixture.member();
    await uncount(fixture);
    await fixture.read("del", fixture.index.flowsCreated);
    const projection = { total_members: "1", sampled_members: "1", members_waiting: "1" };
    await fixture.read("hset", fixture.flow.summary, ...Object.entries(projection).flat());
    await fixture.finish(keys, "success");
    expect(await summaryOf(fixture)).toEqual(projection);
    await fixture.done(countMembers(fixture.flow));
    expect(await summaryOf(fixture)).toEqual({
      total_members: "1",
      members_open: "0",
      members_completed: "1",
    });
    const { created_at } = await fixture.hash(fixture.flow.core);
    expect(await fixture.read("zscore", fixture.index.flowsCreated, fixture.flow.id)).toBe(created_at);
  });

  test("counting uses the last end of a member, takes deleted members for ended, and can be repeated", async () => {
    const fixture = newFixture();
    const [one, two, gone] = [await fixture.member(), await fixture.member(), await fixture.member()];
    await fixture.finish(one, "success");
    await fixture.finish(two, "success");
    await fixture.read("hset", one.core, "completed_at", "5000");
    await fixture.read("hset", two.core, "completed_at", "4000");
    await fixture.read("del", gone.core);
    for (let time = 0; time < 2; time += 1) {
      expect(await fixture.done(countMembers(fixture.flow))).toEqual(["0", "3"]);
      expect(await endOf(fixture)).toBe("5000");
    }
    const missing = newFixture();
    await expectRefusal(missing, countMembers(missing.flow), "flow_not_found");
    await missing.createFlow();
    expect(await missing.done(countMembers(missing.flow))).toEqual(["0", "0"]);
    expect(await endOf(missing)).toBeNull();
  });
});
