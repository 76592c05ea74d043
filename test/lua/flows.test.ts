import { randomUUID } from "node:crypto";
import { describe, expect, test } from "vitest";
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
  });

  test("ff_create_flow, called again, restores only the flow index", async () => {
    const fixture = newFixture();
    await fixture.createFlow();
    const before = await fixture.snapshot();
    await fixture.read("del", fixture.index.flowIndex);
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

  test("ff_cancel_flow returns 20,000 members", async () => {
    const fixture = newFixture();
    await fixture.createFlow();
    const members = Array.from({ length: 20_000 }, (_, index) => `member-${index}`);
    await fixture.read("sadd", fixture.flow.members, ...members);
    const [, ...named] = await fixture.done(cancelFlow(fixture.flow, fixture.index, "", "", OTHER_TIME));
    expect(new Set(named)).toEqual(new Set(members));
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
