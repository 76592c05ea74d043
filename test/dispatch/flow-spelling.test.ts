import { describe, expect, it } from "vitest";
import { type FlowId, parseFlowId, parseStoredFlowId, unwrap } from "#shared/contract/ids.ts";
import { parseCompletionEvent } from "#shared/contract/message.ts";
import { dispatchOne, dispatchSetup, eventOf, family, stateOf } from "#test/support/dispatch.ts";
import { FlowFixture, newFlowId } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

describe.each(DEPLOYMENTS_OF_BOTH)("the spelling of a flow id ($name, $edition KEYS)", (deployment) => {
  const setup = dispatchSetup(deployment);

  /** A message as a sender writes it. */
  function eventFrom(executionId: string, flowId: string) {
    const parsed = parseCompletionEvent({
      body: JSON.stringify({ execution_id: executionId, flow_id: flowId, outcome: "failed" }),
      messageAttributes: {},
    });
    if (!parsed.ok) throw parsed.error;
    return parsed.value;
  }

  it("a message in upper case names the flow that is stored in lower case", async () => {
    const fixture = setup.flow();
    const { parent, children } = await family(fixture, 2);
    await fixture.finish(parent, "failed");
    const event = eventFrom(parent.id, fixture.flow.id.toUpperCase());
    expect(event.flowId).toBe(fixture.flow.id);
    expect(await dispatchOne(setup.ports(), event)).toEqual([]);
    expect(await Promise.all(children.map((child) => stateOf(fixture, child)))).toEqual([
      "skipped",
      "skipped",
    ]);
    expect(await setup.queue.drainEvents()).toMatchObject([
      { flowId: fixture.flow.id },
      { flowId: fixture.flow.id },
    ]);
  });

  it.each(["upper", "lower"] as const)(
    "a message in %s case finds the edges of a flow that release 0.1 stored in upper case",
    async (spelling) => {
      const id = newFlowId();
      const stored = unwrap(parseStoredFlowId(id.toUpperCase()));
      const fixture = new FlowFixture(setup.valkey, undefined, undefined, deployment.edition, stored);
      const { parent, children } = await family(fixture, 1);
      await fixture.finish(parent, "failed");
      expect(await fixture.read("hget", parent.core, "flow_id")).toBe(id.toUpperCase());
      const event = eventFrom(parent.id, spelling === "upper" ? id.toUpperCase() : id);
      expect(await dispatchOne(setup.ports(), event)).toEqual([]);
      expect(await Promise.all(children.map((child) => stateOf(fixture, child)))).toEqual(["skipped"]);
      // The cascade continues under the stored spelling.
      const cascade = await setup.queue.drainEvents();
      expect(cascade).toMatchObject([{ executionId: children[0]?.id }]);
      for (const next of cascade) expect(await dispatchOne(setup.ports(), next)).toEqual([]);
    },
  );

  it("another flow than the record's fails with the reason, and is not retried", async () => {
    const fixture = setup.flow();
    const { parent, children } = await family(fixture, 1);
    await fixture.finish(parent, "failed");
    const wrong: FlowId = unwrap(parseFlowId("550e8400-e29b-41d4-a716-446655440000"));
    expect(await dispatchOne(setup.ports(), eventOf(parent.id, wrong))).toMatchObject([
      {
        name: "FlowMismatchError",
        code: "flow_mismatch",
        retryable: false,
        message: expect.stringContaining(fixture.flow.id),
      },
    ]);
    expect(await Promise.all(children.map((child) => stateOf(fixture, child)))).toEqual(["waiting_children"]);
  });
});
