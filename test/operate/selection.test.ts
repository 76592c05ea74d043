import { randomUUID } from "node:crypto";
import { describe, expect, it } from "vitest";
import { runOperation } from "#operate/run-operation.ts";
import { selectionOf, selectPage } from "#operate/selection.ts";
import { fail } from "#operate/write/end.ts";
import { parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { SUBMISSION_FIELDS } from "#shared/contract/submission.ts";
import { InvalidRequestError } from "#shared/errors.ts";
import { bulkFamily } from "#test/support/dispatch.ts";
import { FlowFixture } from "#test/support/flow-fixture.ts";
import { operatorAt } from "#test/support/operator.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

describe.each(DEPLOYMENTS)("the selection on $name", (deployment) => {
  const operator = operatorAt(deployment);

  function newLane() {
    return unwrap(parseLaneId(`lane ${randomUUID()}`));
  }

  async function idsOf(input: Parameters<typeof selectionOf>[0]): Promise<string[]> {
    const { executions } = await selectPage(operator.context(), selectionOf(input, ["waiting"]), undefined);
    return executions.map(({ keys }) => keys.id);
  }

  it.each([
    [{}, "nothing limits the selection"],
    [{ states: [], lane: "", task: "", workflow: "", reason_contains: "" }, "nothing limits the selection"],
    [{ flow: randomUUID(), task: "" }, "the filter task is empty: give it a value, or omit it"],
    [{ lane: "imports", states: [] }, "the filter states is empty: give it a value, or omit it"],
    [{ execution: "e", flow: "f" }, "either one execution or"],
    [{ execution: "550e8400" }, "expected an execution id"],
    [{ flow: "nightly" }, "expected a flow id"],
    [{ lane: "ü" }, "expected a lane"],
  ])("refuses %j before anything is recorded", async (input, message) => {
    const services = {
      ...operator.context(),
      ensureLibrary: () => Promise.reject(new Error("not reached")),
      checkPartitions: () => Promise.resolve(),
      close: () => undefined,
    };
    const reason = randomUUID();
    const call = { actor: "tests", deadlineMs: Number.POSITIVE_INFINITY };
    const refused = runOperation(fail, services, { ...input, reason }, call);
    await expect(refused).rejects.toThrow(InvalidRequestError);
    await expect(runOperation(fail, services, { ...input, reason }, call)).rejects.toThrow(message);
    expect(await operator.auditEntries(reason)).toBe(0);
  });

  it("selects by lane, state, kind, task and workflow", async () => {
    const lane = newLane();
    const [flow, other] = [new FlowFixture(operator.valkey, lane), new FlowFixture(operator.valkey, lane)];
    const [fetched, sent] = [await flow.member({ kind: "fetch" }), await flow.member({ kind: "send" })];
    const foreign = await other.member({ kind: "fetch" });
    const solo = await flow.execution({ kind: "send" });
    await flow.finish(sent, "failed");
    await flow.read("hset", flow.flow.core, SUBMISSION_FIELDS.name, "nightly");
    const sorted = (...members: { readonly id: string }[]) => members.map(({ id }) => id).sort();
    expect((await idsOf({ lane })).sort()).toEqual(sorted(fetched, foreign, solo));
    expect((await idsOf({ lane, states: ["failed", "waiting"] })).sort()).toEqual(
      sorted(fetched, foreign, solo, sent),
    );
    expect((await idsOf({ lane, task: "fetch" })).sort()).toEqual(sorted(fetched, foreign));
    expect(await idsOf({ lane, workflow: "nightly" })).toEqual([fetched.id]);
    expect(await idsOf({ flow: flow.flow.id, states: ["failed"] })).toEqual([sent.id]);
    expect(await idsOf({ flow: flow.flow.id, lane: newLane() })).toEqual([]);
  });

  it("selects by the time in the state and by the reason", async () => {
    const lane = newLane();
    const flow = new FlowFixture(operator.valkey, lane);
    const [old, young] = [await flow.member(), await flow.member()];
    await flow.finish(old, "failed");
    await flow.finish(young, "failed");
    await flow.read("hset", old.core, "last_transition_at", "1000");
    await flow.read("hset", young.core, "last_transition_at", "2000", "failure_reason", "the disk is full");
    const states = { lane, states: ["failed" as const] };
    expect(await idsOf({ ...states, since_at: 1500 })).toEqual([young.id]);
    expect(await idsOf({ ...states, before_at: 2000 })).toEqual([old.id]);
    expect(await idsOf({ ...states, reason_contains: "disk" })).toEqual([young.id]);
  });

  it("pages through a flow, each execution once although every page changes", async () => {
    const flow = operator.flow();
    const { children } = await bulkFamily(flow, 1_100);
    for (const { id } of children) await flow.read("sadd", flow.flow.members, id);
    const selection = selectionOf({ flow: flow.flow.id, states: ["waiting_children"] }, []);
    for (const { core } of children) await flow.read("hset", core, "public_state", "waiting_children");
    const sizes: number[] = [];
    const seen = new Set<string>();
    let cursor: string | undefined;
    do {
      const page = await selectPage(operator.context(), selection, cursor);
      sizes.push(page.executions.length);
      for (const { keys } of page.executions) {
        expect(seen.has(keys.id)).toBe(false);
        seen.add(keys.id);
        await flow.read("hset", keys.core, "public_state", "cancelled");
      }
      cursor = page.next;
    } while (cursor !== undefined);
    expect(sizes).toEqual([500, 500, 100]);
    expect(seen.size).toBe(1_100);
  });

  it("refuses a cursor that is none", async () => {
    const selection = selectionOf({ lane: "default" }, ["waiting"]);
    await expect(selectPage(operator.context(), selection, "yesterday")).rejects.toThrow(
      "cursor: is not a cursor",
    );
  });
});
