import { describe, expect, test } from "vitest";
import { readFlowSummary } from "#sdk/flow-summary.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { fixturesOn } from "#test/support/expectations.ts";
import { type FlowFixture, ROUTER } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

const STATES = {
  members_completed: 0,
  members_failed: 0,
  members_cancelled: 0,
  members_expired: 0,
  members_skipped: 0,
  members_active: 0,
  members_suspended: 0,
  members_waiting: 0,
  members_delayed: 0,
  members_rate_limited: 0,
  members_waiting_children: 0,
};

describe.each(DEPLOYMENTS)("readFlowSummary ($name)", (deployment) => {
  const newFixture = fixturesOn(deployment);
  const read = ({ valkey, flow }: FlowFixture) => readFlowSummary({ valkey, router: ROUTER }, flow.id);
  const setState = (fixture: FlowFixture, keys: ExecKeys, state: string) =>
    fixture.read("hset", keys.core, "public_state", state);

  test("counts every member by its state", async () => {
    const fixture = newFixture();
    for (const column of Object.keys(STATES)) {
      await setState(fixture, await fixture.member(), column.slice("members_".length));
    }
    const ones = Object.fromEntries(Object.keys(STATES).map((column) => [column, 1]));
    expect(await read(fixture)).toEqual({
      total_members: 11,
      sampled_members: 11,
      ...ones,
      public_flow_state: "running",
    });
  });

  test.each([
    [["completed", "skipped"], "completed"],
    [["completed", "failed"], "failed"],
    [["completed", "cancelled"], "failed"],
    [["skipped", "expired"], "failed"],
    [["failed", "active", "delayed"], "running"],
    [["failed", "waiting", "delayed"], "blocked"],
    [["waiting_children", "waiting"], "blocked"],
    [["completed", "waiting"], "open"],
    [["completed", ""], "open"],
    [[], "open"],
  ] as const)("derives the state of a flow whose members are %j: %s", async (states, expected) => {
    const fixture = newFixture();
    await fixture.createFlow();
    for (const state of states) await setState(fixture, await fixture.member(), state);
    expect(await read(fixture)).toMatchObject({ total_members: states.length, public_flow_state: expected });
  });

  test("a member without a record keeps the flow open", async () => {
    const fixture = newFixture();
    const [ended, gone] = [await fixture.member(), await fixture.member()];
    await fixture.finish(ended, "success");
    await fixture.read("del", gone.core);
    expect(await read(fixture)).toMatchObject({
      total_members: 2,
      members_completed: 1,
      public_flow_state: "open",
    });
  });

  test("reads more members than a page, each once", async () => {
    const fixture = newFixture();
    await fixture.member();
    const others = Array.from({ length: 2_500 }, () => fixture.newExecution());
    await fixture.read("sadd", fixture.flow.members, ...others.map(({ id }) => id));
    await Promise.all(others.map((keys) => setState(fixture, keys, "waiting")));
    expect(await read(fixture)).toMatchObject({ total_members: 2_501, members_waiting: 2_501 });
  });

  test("a flow that does not exist has no summary", async () => {
    expect(await read(newFixture())).toBeUndefined();
  });
});
