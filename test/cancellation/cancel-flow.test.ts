import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startValkey, type ValkeyServer } from "#local/valkey-server.ts";
import { librarySource } from "#lua/library.ts";
import { type CancelFlowProgress, cancelFlow } from "#sdk/cancellation/cancel-flow.ts";
import type { CancellationPolicy } from "#shared/contract/graph.ts";
import { replayExecution } from "#shared/contract/graph.ts";
import { completeExecution } from "#shared/contract/ownership.ts";
import { addExecutionToFlow } from "#shared/contract/submission.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { expectCancelled, expectNothingPending, mixedFlow } from "#test/cancellation/mixed-flow.ts";
import { InterceptedPipelines } from "#test/submission/fixture.ts";
import { dispatchOne, dispatchSetup, eventOf, stateOf } from "#test/support/dispatch.ts";
import { expectRefusal, fixturesOn } from "#test/support/expectations.ts";
import { FlowFixture, ROUTER, WORKER } from "#test/support/flow-fixture.ts";
import { connectTo, DEPLOYMENTS_OF_BOTH, onEveryPrimary } from "#test/support/valkey.ts";

const REASON = "superseded";

function cancel({ valkey, flow }: FlowFixture, policy?: CancellationPolicy) {
  return cancelFlow({ valkey, router: ROUTER }, flow.id, {
    reason: REASON,
    ...(policy === undefined ? {} : { policy }),
  });
}

describe.each(DEPLOYMENTS_OF_BOTH)("cancelFlow ($name, $edition KEYS)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  test("cancels every member that has not ended, and nothing else", async () => {
    const fixture = newFixture();
    const flow = await mixedFlow(fixture);
    expect(await cancel(fixture)).toEqual({
      flowId: fixture.flow.id,
      policy: "cancel_all",
      reason: REASON,
      wasCancelled: false,
      cancelled: 6,
      alreadyEnded: 2,
      notFound: 0,
      failed: 0,
      failures: [],
    });
    await expectCancelled(fixture, flow, REASON);
    // The worker that held the lease cannot report, and nothing can be added.
    const report = completeExecution(fixture.target(flow.open.active), WORKER, flow.lease, "late");
    expect(await fixture.call(report)).toMatchObject({ kind: "refused", code: "execution_not_active" });
    const added = addExecutionToFlow(fixture.flow, fixture.index, await fixture.execution(), 0);
    await expectRefusal(fixture, added, "flow_already_terminal");
  });

  test.each(["cancel_pending", "flow_only"] as const)(
    "policy %s closes the flow and cancels no member",
    async (policy) => {
      const fixture = newFixture();
      const { open, lease } = await mixedFlow(fixture);
      expect(await cancel(fixture, policy)).toMatchObject({
        policy,
        cancelled: 0,
        alreadyEnded: 0,
        wasCancelled: false,
      });
      expect(await stateOf(fixture, open.eligible)).toBe("waiting");
      await fixture.complete(open.active, lease);
      await expectNothingPending(fixture);
      // The policy of the first call counts.
      expect(await cancel(fixture)).toMatchObject({ policy, cancelled: 0, wasCancelled: true });
      expect(await stateOf(fixture, open.eligible)).toBe("waiting");
    },
  );

  // Either the step was not executed, or it was and its reply is lost.
  test.each([false, true])("continues after a crash at any step (executed: %s)", async (isExecuted) => {
    for (let steps = 0; ; steps += 1) {
      const fixture = newFixture();
      const flow = await mixedFlow(fixture);
      const dying = new InterceptedPipelines(fixture.valkey, async (call, send) => {
        if (call <= steps) return send();
        if (call === steps + 1 && isExecuted) await send();
        throw new Error("the process died");
      });
      const isOver = await cancelFlow({ valkey: dying, router: ROUTER }, fixture.flow.id, {
        reason: REASON,
      }).then(
        () => true,
        () => false,
      );
      const again = await cancel(fixture);
      await expectCancelled(fixture, flow, REASON);
      expect(again).toMatchObject({ policy: "cancel_all", reason: REASON, failures: [] });
      if (isOver) {
        // Close, read the records, cancel, acknowledge.
        expect(steps).toBe(4);
        return;
      }
    }
  });

  test("a second call reports that the flow was cancelled, and leaves a replayed member alone", async () => {
    const fixture = newFixture();
    const { open } = await mixedFlow(fixture);
    await cancel(fixture);
    await fixture.done(replayExecution(open.eligible, fixture.index, fixture.lane, [], 0));
    expect(await cancel(fixture)).toMatchObject({
      wasCancelled: true,
      cancelled: 0,
      alreadyEnded: 0,
      reason: REASON,
    });
    expect(await stateOf(fixture, open.eligible)).toBe("waiting");
    await fixture.finish(open.eligible, "success");
  });

  test("retries temporary failures, and reports and acknowledges permanent ones", async () => {
    const fixture = newFixture();
    const { valkey, flow } = fixture;
    const [good, broken, gone] = [await fixture.member(), await fixture.member(), await fixture.member()];
    await fixture.read("hset", broken.core, "lane_id", "");
    await fixture.read("del", gone.core);
    await fixture.read("sadd", flow.members, "no id");
    // The first cancellation of a member fails with an error of the connection.
    let failures = 1;
    const shaky = new InterceptedPipelines(valkey, async (_call, send, commands) => {
      const isCancel = commands.some(({ args }) => args[0] === "ff_cancel_execution");
      if (!isCancel || failures === 0) return send();
      failures -= 1;
      return commands.map(() => ({ ok: false, error: new Error("the connection is closed") }));
    });
    const result = await cancelFlow({ valkey: shaky, router: ROUTER }, flow.id, { reason: REASON });
    expect(result).toMatchObject({ cancelled: 1, notFound: 1, failed: 2 });
    expect(result.failures.map(({ member, isPending }) => ({ member, isPending }))).toEqual(
      expect.arrayContaining([
        { member: broken.id, isPending: false },
        { member: "no id", isPending: false },
      ]),
    );
    expect(await stateOf(fixture, good)).toBe("cancelled");
    await expectNothingPending(fixture);
  });

  test("a member that cannot be cancelled stays pending", async () => {
    const fixture = newFixture();
    const member = await fixture.member();
    const down = new InterceptedPipelines(fixture.valkey, async (call, send, commands) =>
      call === 1 ? send() : commands.map(() => ({ ok: false, error: new Error("the connection is closed") })),
    );
    const result = await cancelFlow({ valkey: down, router: ROUTER }, fixture.flow.id, { reason: REASON });
    expect(result).toMatchObject({ failed: 1, failures: [{ member: member.id, isPending: true }] });
    expect(await fixture.read("smembers", fixture.flow.pendingCancels)).toEqual([member.id]);
    expect(await cancel(fixture)).toMatchObject({ wasCancelled: true, cancelled: 1 });
    await expectNothingPending(fixture);
  });

  test("cancels 1,200 members in pages, and reports its progress; a second call continues after the first page", async () => {
    const fixture = newFixture();
    await fixture.createFlow();
    const members = await Promise.all(Array.from({ length: 1_200 }, () => fixture.member()));
    const progress: CancelFlowProgress[] = [];
    const ports = { valkey: fixture.valkey, router: ROUTER };
    const interrupted = cancelFlow(ports, fixture.flow.id, {
      reason: REASON,
      onProgress: (counts) => {
        progress.push(counts);
        throw new Error("the process died");
      },
    });
    await expect(interrupted).rejects.toThrow("the process died");
    expect(progress).toMatchObject([{ cancelled: 500 }]);
    const again = await cancelFlow(ports, fixture.flow.id, {
      reason: "another",
      onProgress: (counts) => progress.push(counts),
    });
    expect(again).toMatchObject({ wasCancelled: true, cancelled: 700, reason: REASON });
    expect(progress.at(-1)).toMatchObject({ cancelled: 700 });
    const states = await Promise.all(members.map((keys) => stateOf(fixture, keys)));
    expect(new Set(states)).toEqual(new Set(["cancelled"]));
    await expectNothingPending(fixture);
  });

  test("refuses a flow that does not exist, one that ended otherwise, and a malformed grace", async () => {
    const fixture = newFixture();
    await expect(cancel(fixture)).rejects.toMatchObject({ code: "flow_not_found" });
    await fixture.createFlow();
    const ports = { valkey: fixture.valkey, router: ROUTER };
    await expect(cancelFlow(ports, fixture.flow.id, { reason: "", graceMs: -1 })).rejects.toMatchObject({
      code: "invalid_grace_ms",
    });
    await fixture.read("hset", fixture.flow.core, "public_flow_state", "completed");
    await expect(cancel(fixture)).rejects.toMatchObject({ code: "flow_already_terminal" });
  });
});

describe.each(DEPLOYMENTS_OF_BOTH)(
  "late completions of a cancelled flow ($name, $edition KEYS)",
  (deployment) => {
    const setup = dispatchSetup(deployment);

    test("change no cancelled child, and publish nothing", async () => {
      const fixture = setup.flow();
      const { open, completed, failed } = await mixedFlow(fixture);
      await fixture.edge(completed, open.blocked);
      await fixture.edge(failed, open.blocked);
      await cancel(fixture);
      const before = await Promise.all([open.blocked, open.child].map((keys) => fixture.hash(keys.core)));
      for (const { id } of [completed, failed, open.active, open.eligible]) {
        expect(await dispatchOne(setup.ports(), eventOf(id, fixture.flow.id))).toEqual([]);
      }
      expect(await Promise.all([open.blocked, open.child].map((keys) => fixture.hash(keys.core)))).toEqual(
        before,
      );
      expect(await setup.queue.drain()).toEqual([]);
    });
  },
);

describe("cancelFlow on a library that records nothing, as FlowFabric's versions 5 and 6", () => {
  let server: ValkeyServer;
  let valkey: Valkey;
  beforeAll(async () => {
    server = await startValkey();
    valkey = connectTo({ url: server.url, cluster: false });
    const complete = librarySource(11);
    const source = [
      /\bcan_record\b(?= and)/,
      /^server\.register_function\{.*ff_ack_cancel_member.*$/m,
    ].reduce((text, part, position) => {
      expect(text).toMatch(part);
      return text.replace(part, position === 0 ? "false" : "");
    }, complete);
    await onEveryPrimary(valkey, "function", "LOAD", source);
  });
  afterAll(async () => {
    valkey.close();
    await server.stop();
  });

  test("cancels the members of the reply; after a crash, a second call cancels the rest", async () => {
    const fixture = new FlowFixture(valkey);
    const flow = await mixedFlow(fixture);
    expect(await cancel(fixture)).toMatchObject({ cancelled: 6, alreadyEnded: 2, failures: [] });
    await expectCancelled(fixture, flow, REASON);

    const other = new FlowFixture(valkey);
    const interrupted = await mixedFlow(other);
    const dying = new InterceptedPipelines(valkey, (call, send) =>
      call === 1 ? send() : Promise.reject(new Error("the process died")),
    );
    const crash = cancelFlow({ valkey: dying, router: ROUTER }, other.flow.id, { reason: REASON });
    await expect(crash).rejects.toThrow("the process died");
    expect(await cancel(other)).toMatchObject({ wasCancelled: true, cancelled: 6, alreadyEnded: 2 });
    await expectCancelled(other, interrupted, REASON);
  });
});
