import { randomUUID } from "node:crypto";
import { describe, expect, test } from "vitest";
import { fcall } from "#shared/contract/command.ts";
import { cancelFlow } from "#shared/contract/graph.ts";
import { addExecutionToFlow, createFlow } from "#shared/contract/submission.ts";
import { expectRefusal, expectTimeIn, fixturesOn, serverTime } from "#test/support/expectations.ts";
import { field } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

/** A now_ms that these functions must ignore. */
const OTHER_TIME = 1;

describe.each(DEPLOYMENTS_OF_BOTH)("flows ($name, $edition KEYS)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  test("ff_create_flow writes the flow with the server's time", async () => {
    const fixture = newFixture();
    const from = await serverTime(fixture);
    const command = createFlow(fixture.flow, fixture.index, "dag", "tests", OTHER_TIME);
    expect(await fixture.call(command)).toEqual({ kind: "done", status: "OK", fields: [fixture.flow.id] });
    const { created_at, last_mutation_at, ...flow } = await fixture.hash(fixture.flow.core);
    expect(flow).toEqual({
      flow_id: fixture.flow.id,
      flow_kind: "dag",
      namespace: "tests",
      graph_revision: "0",
      node_count: "0",
      edge_count: "0",
      public_flow_state: "open",
    });
    expectTimeIn(created_at, from, await serverTime(fixture));
    expect(last_mutation_at).toBe(created_at);
    expect(await fixture.read("smembers", fixture.index.flowIndex)).toEqual([fixture.flow.id]);
    expect(await fixture.read("zscore", fixture.index.flowsCreated, fixture.flow.id)).toBe(created_at);
  });

  test("ff_create_flow, called again, restores only the indexes of flows", async () => {
    const fixture = newFixture();
    await fixture.createFlow();
    const before = await fixture.snapshot();
    await fixture.read("del", fixture.index.flowIndex, fixture.index.flowsCreated);
    const again = await fixture.call(createFlow(fixture.flow, fixture.index, "other", "other", OTHER_TIME));
    expect(again).toEqual({ kind: "done", status: "ALREADY_SATISFIED", fields: [fixture.flow.id] });
    expect(await fixture.snapshot()).toEqual(before);
  });

  test("ff_add_execution_to_flow adds a member once", async () => {
    const fixture = newFixture();
    await fixture.createFlow();
    const keys = await fixture.execution();
    const command = addExecutionToFlow(fixture.flow, fixture.index, keys, OTHER_TIME);
    const from = await serverTime(fixture);
    expect(await fixture.call(command)).toEqual({ kind: "done", status: "OK", fields: [keys.id, "1"] });
    const flow = await fixture.hash(fixture.flow.core);
    expect(flow).toMatchObject({ node_count: "1", graph_revision: "1" });
    expectTimeIn(field(flow, "last_mutation_at"), from, await serverTime(fixture));
    expect(await fixture.read("smembers", fixture.flow.members)).toEqual([keys.id]);
    expect(field(await fixture.hash(keys.core), "flow_id")).toBe(fixture.flow.id);

    const before = await fixture.snapshot();
    expect(await fixture.call(command)).toEqual({
      kind: "done",
      status: "ALREADY_SATISFIED",
      fields: [keys.id, "1"],
    });
    expect(await fixture.snapshot()).toEqual(before);
  });

  test("ff_add_execution_to_flow restores a lost flow_id", async () => {
    const fixture = newFixture();
    const keys = await fixture.member();
    await fixture.read("hset", keys.core, "flow_id", "");
    const reply = await fixture.call(addExecutionToFlow(fixture.flow, fixture.index, keys, OTHER_TIME));
    expect(reply).toMatchObject({ status: "ALREADY_SATISFIED", fields: [keys.id, "1"] });
    expect(field(await fixture.hash(keys.core), "flow_id")).toBe(fixture.flow.id);
  });

  test("ff_add_execution_to_flow refuses in the order of the contract", async () => {
    const fixture = newFixture();
    const keys = fixture.newExecution();
    const command = addExecutionToFlow(fixture.flow, fixture.index, keys, OTHER_TIME);
    await expectRefusal(fixture, command, "flow_not_found");
    await fixture.createFlow();
    for (const state of ["cancelled", "completed", "failed"]) {
      await fixture.read("hset", fixture.flow.core, "public_flow_state", state);
      await expectRefusal(fixture, command, "flow_already_terminal");
    }
    await fixture.read("hset", fixture.flow.core, "public_flow_state", "open");
    await expectRefusal(fixture, command, "execution_not_found");
  });

  test.each([true, false])(
    "ff_add_execution_to_flow refuses an execution of another flow (already a member: %s)",
    async (isMember) => {
      const fixture = newFixture();
      await fixture.createFlow();
      const keys = isMember ? await fixture.member() : await fixture.execution();
      const other = randomUUID();
      await fixture.read("hset", keys.core, "flow_id", other);
      const command = addExecutionToFlow(fixture.flow, fixture.index, keys, OTHER_TIME);
      await expectRefusal(fixture, command, `already_member_of_different_flow:${other}`);
    },
  );

  test("ff_cancel_flow closes the flow, and returns its members", async () => {
    const fixture = newFixture();
    const members = [await fixture.member(), await fixture.member()];
    const from = await serverTime(fixture);
    const command = cancelFlow(fixture.flow, fixture.index, "enough", "cancel_all", OTHER_TIME);
    const [policy, ...named] = await fixture.done(command);
    expect(policy).toBe("cancel_all");
    expect(named.sort()).toEqual(members.map(({ id }) => id).sort());
    const flow = await fixture.hash(fixture.flow.core);
    expect(flow).toMatchObject({
      public_flow_state: "cancelled",
      cancel_reason: "enough",
      cancellation_policy: "cancel_all",
    });
    expectTimeIn(field(flow, "cancelled_at"), from, await serverTime(fixture));
    await expectRefusal(fixture, command, "flow_already_terminal");
  });

  test.each([
    [undefined, 30_000],
    [0, 0],
    [9_007_199_254_740_991, 9_007_199_254_740_991],
  ])("ff_cancel_flow records the members as pending (grace_ms: %s)", async (graceMs, expected) => {
    const fixture = newFixture();
    const { flow, index } = fixture;
    const members = [(await fixture.member()).id, (await fixture.member()).id];
    await fixture.done(cancelFlow(flow, index, "enough", "cancel_all", OTHER_TIME, graceMs));
    expect(await fixture.read("smembers", flow.pendingCancels)).toEqual(expect.arrayContaining(members));
    const cancelledAt = Number(await fixture.read("hget", flow.core, "cancelled_at"));
    expect(Number(await fixture.read("zscore", index.cancelBacklog, flow.id))).toBe(cancelledAt + expected);
  });

  test.each([
    ["cancel_pending", 5, 1],
    ["flow_only", 5, 1],
    ["cancel_all", 3, 1],
    ["cancel_all", 5, 0],
  ])("ff_cancel_flow records nothing (policy %s, %i KEYS, %i members)", async (policy, keyCount, members) => {
    const fixture = newFixture();
    const { flow, index } = fixture;
    await fixture.createFlow();
    if (members > 0) await fixture.member();
    const [name, count, ...rest] = cancelFlow(flow, index, "enough", policy, OTHER_TIME).args;
    const keys = rest.slice(0, Number(count)).map(String).slice(0, keyCount);
    await fixture.done(fcall(flow.partition, String(name), keys, rest.slice(Number(count))));
    expect(await fixture.read("hget", flow.core, "public_flow_state")).toBe("cancelled");
    expect(await fixture.read("exists", flow.pendingCancels, index.cancelBacklog)).toBe(0);
  });

  test.each(["-1", "1.5", "1e3", "9007199254740992", "soon"])(
    "ff_cancel_flow refuses the grace_ms %s before anything else",
    async (grace) => {
      const fixture = newFixture();
      const { partition, name, args } = cancelFlow(fixture.flow, fixture.index, "", "cancel_all", OTHER_TIME);
      await expectRefusal(
        fixture,
        { partition, name, args: [...args.slice(0, -1), grace] },
        "invalid_grace_ms",
      );
    },
  );

  test("ff_cancel_flow records and returns 20,000 members", async () => {
    const fixture = newFixture();
    await fixture.createFlow();
    const members = Array.from({ length: 20_000 }, (_, index) => `member-${index}`);
    await fixture.read("sadd", fixture.flow.members, ...members);
    const command = cancelFlow(fixture.flow, fixture.index, "", "cancel_all", OTHER_TIME);
    const [, ...named] = await fixture.done(command);
    expect(new Set(named)).toEqual(new Set(members));
    expect(await fixture.read("scard", fixture.flow.pendingCancels)).toBe(members.length);
  });

  test("ff_cancel_flow refuses a missing flow", async () => {
    const fixture = newFixture();
    await expectRefusal(
      fixture,
      cancelFlow(fixture.flow, fixture.index, "", "", OTHER_TIME),
      "flow_not_found",
    );
  });
});
