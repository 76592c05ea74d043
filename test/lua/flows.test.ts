import { randomUUID } from "node:crypto";
import { describe, expect, test } from "vitest";
import { cancelFlow } from "#shared/contract/graph.ts";
import { addExecutionToFlow, createFlow } from "#shared/contract/submission.ts";
import { expectRefusal, expectTimeIn, scenesOn, serverTime } from "#test/support/expectations.ts";
import { field } from "#test/support/scene.ts";
import { DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

/** A now_ms that the functions of this file must ignore. */
const OTHER_TIME = 1;

describe.each(DEPLOYMENTS_OF_BOTH)("flows on $name, $edition KEYS", (deployment) => {
  const newScene = scenesOn(deployment);

  test("ff_create_flow writes the flow, with the server's time", async () => {
    const scene = newScene();
    const from = await serverTime(scene);
    const command = createFlow(scene.flow, scene.index, "dag", "tests", OTHER_TIME);
    expect(await scene.call(command)).toEqual({ kind: "done", status: "OK", fields: [scene.flow.id] });
    const { created_at, last_mutation_at, ...flow } = await scene.hash(scene.flow.core);
    expect(flow).toEqual({
      flow_id: scene.flow.id,
      flow_kind: "dag",
      namespace: "tests",
      graph_revision: "0",
      node_count: "0",
      edge_count: "0",
      public_flow_state: "open",
    });
    expectTimeIn(created_at, from, await serverTime(scene));
    expect(last_mutation_at).toBe(created_at);
    expect(await scene.read("smembers", scene.index.flowIndex)).toEqual([scene.flow.id]);
  });

  test("ff_create_flow again changes nothing but brings the index back", async () => {
    const scene = newScene();
    await scene.createFlow();
    const before = await scene.snapshot();
    await scene.read("del", scene.index.flowIndex);
    const again = await scene.call(createFlow(scene.flow, scene.index, "other", "other", OTHER_TIME));
    expect(again).toEqual({ kind: "done", status: "ALREADY_SATISFIED", fields: [scene.flow.id] });
    expect(await scene.snapshot()).toEqual(before);
  });

  test("ff_add_execution_to_flow makes a member, once", async () => {
    const scene = newScene();
    await scene.createFlow();
    const keys = await scene.execution();
    const command = addExecutionToFlow(scene.flow, scene.index, keys, OTHER_TIME);
    const from = await serverTime(scene);
    expect(await scene.call(command)).toEqual({ kind: "done", status: "OK", fields: [keys.id, "1"] });
    const flow = await scene.hash(scene.flow.core);
    expect(flow).toMatchObject({ node_count: "1", graph_revision: "1" });
    expectTimeIn(field(flow, "last_mutation_at"), from, await serverTime(scene));
    expect(await scene.read("smembers", scene.flow.members)).toEqual([keys.id]);
    expect(field(await scene.hash(keys.core), "flow_id")).toBe(scene.flow.id);

    const before = await scene.snapshot();
    expect(await scene.call(command)).toEqual({
      kind: "done",
      status: "ALREADY_SATISFIED",
      fields: [keys.id, "1"],
    });
    expect(await scene.snapshot()).toEqual(before);
  });

  test("ff_add_execution_to_flow stamps a member that lost its flow_id", async () => {
    const scene = newScene();
    const keys = await scene.member();
    await scene.read("hset", keys.core, "flow_id", "");
    const reply = await scene.call(addExecutionToFlow(scene.flow, scene.index, keys, OTHER_TIME));
    expect(reply).toMatchObject({ status: "ALREADY_SATISFIED", fields: [keys.id, "1"] });
    expect(field(await scene.hash(keys.core), "flow_id")).toBe(scene.flow.id);
  });

  test("ff_add_execution_to_flow refuses, in the contract's order", async () => {
    const scene = newScene();
    const keys = scene.newExecution();
    const command = addExecutionToFlow(scene.flow, scene.index, keys, OTHER_TIME);
    await expectRefusal(scene, command, "flow_not_found");
    await scene.createFlow();
    for (const state of ["cancelled", "completed", "failed"]) {
      await scene.read("hset", scene.flow.core, "public_flow_state", state);
      await expectRefusal(scene, command, "flow_already_terminal");
    }
    await scene.read("hset", scene.flow.core, "public_flow_state", "open");
    await expectRefusal(scene, command, "execution_not_found");
  });

  test.each([true, false])("a flow_id of another flow is refused, a member: %s", async (isMember) => {
    const scene = newScene();
    await scene.createFlow();
    const keys = isMember ? await scene.member() : await scene.execution();
    const other = randomUUID();
    await scene.read("hset", keys.core, "flow_id", other);
    const command = addExecutionToFlow(scene.flow, scene.index, keys, OTHER_TIME);
    await expectRefusal(scene, command, `already_member_of_different_flow:${other}`);
  });

  test("ff_cancel_flow closes the flow and names its members", async () => {
    const scene = newScene();
    const members = [await scene.member(), await scene.member()];
    const from = await serverTime(scene);
    const command = cancelFlow(scene.flow, scene.index, "enough", "cancel_all", OTHER_TIME);
    const [policy, ...named] = await scene.done(command);
    expect(policy).toBe("cancel_all");
    expect(named.sort()).toEqual(members.map(({ id }) => id).sort());
    const flow = await scene.hash(scene.flow.core);
    expect(flow).toMatchObject({
      public_flow_state: "cancelled",
      cancel_reason: "enough",
      cancellation_policy: "cancel_all",
    });
    expectTimeIn(field(flow, "cancelled_at"), from, await serverTime(scene));
    await expectRefusal(scene, command, "flow_already_terminal");
  });

  test("ff_cancel_flow names 20,000 members", async () => {
    const scene = newScene();
    await scene.createFlow();
    const members = Array.from({ length: 20_000 }, (_, index) => `member-${index}`);
    await scene.read("sadd", scene.flow.members, ...members);
    const [, ...named] = await scene.done(cancelFlow(scene.flow, scene.index, "", "", OTHER_TIME));
    expect(new Set(named)).toEqual(new Set(members));
  });

  test("ff_cancel_flow refuses a flow that is not there", async () => {
    const scene = newScene();
    await expectRefusal(scene, cancelFlow(scene.flow, scene.index, "", "", OTHER_TIME), "flow_not_found");
  });
});
