import { describe, expect, it } from "vitest";
import { cancelFlow } from "#sdk/cancellation/cancel-flow.ts";
import { cancelFlow as closeFlow } from "#shared/contract/graph.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { PublishError } from "#shared/errors.ts";
import { LEASE_KEY } from "#shared/reconcile/lease.ts";
import { type ReconcilerPorts, sweep } from "#shared/reconcile/sweep.ts";
import { cancellations } from "#shared/reconcile/tasks/cancellations.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { expectCancelled, expectNothingPending, mixedFlow } from "#test/cancellation/mixed-flow.ts";
import { InterceptedPipelines } from "#test/submission/fixture.ts";
import { portsOf as dispatcherPorts, dispatchOne, stateOf } from "#test/support/dispatch.ts";
import { DEATHS, DyingValkey } from "#test/support/dying-valkey.ts";
import type { FlowFixture } from "#test/support/flow-fixture.ts";
import { ROUTER } from "#test/support/flow-fixture.ts";
import { SERVER_KINDS, useReconcilerServers } from "#test/support/reconcile.ts";
import { onEveryPrimary } from "#test/support/valkey.ts";

const REASON = "superseded";

describe.each(SERVER_KINDS)("the task cancellations (%s)", (kind) => {
  const servers = useReconcilerServers(kind, 14);
  const portsOf = (fixture: FlowFixture, overrides: Partial<Omit<ReconcilerPorts, "telemetry">> = {}) =>
    servers().ports([fixture], { tasks: [cancellations], ...overrides });

  /** A dead run leaves its lease, which expires, and its checkpoint. */
  const expireLease = () => servers().valkey.call("del", LEASE_KEY);

  describe("members of cancelled flows", () => {
    it("are cancelled after the grace, and no completion is sent", async () => {
      const fixture = servers().fixture();
      const flow = await mixedFlow(fixture);
      await fixture.done(closeFlow(fixture.flow, fixture.index, REASON, "cancel_all", 0, 60_000));
      expect(await sweep(portsOf(fixture))).toMatchObject({
        state: "complete",
        tasks: { cancellations: { scanned: 0 } },
      });
      expect(await stateOf(fixture, flow.open.eligible)).toBe("waiting");
      await fixture.read("zadd", fixture.index.cancelBacklog, 1, fixture.flow.id);
      expect(await sweep(portsOf(fixture))).toMatchObject({
        state: "complete",
        tasks: { cancellations: { scanned: 1, counts: { [METRICS.membersCancelled]: 6 } } },
      });
      await expectCancelled(fixture, flow, REASON);
      expect(await servers().drainSent()).toEqual([]);
    });

    it("are cancelled in pages, after any number", async () => {
      const fixture = servers().fixture();
      await fixture.createFlow();
      const members = await Promise.all(Array.from({ length: 1_100 }, () => fixture.member()));
      await fixture.done(closeFlow(fixture.flow, fixture.index, REASON, "cancel_all", 0, 0));
      expect(await sweep(portsOf(fixture))).toMatchObject({
        state: "complete",
        tasks: { cancellations: { counts: { [METRICS.membersCancelled]: members.length } } },
      });
      const states = await Promise.all(members.map((keys) => stateOf(fixture, keys)));
      expect(new Set(states)).toEqual(new Set(["cancelled"]));
      await expectNothingPending(fixture);
    }, 60_000);

    it.each(DEATHS)(
      "survive a crash at any step of cancelFlow and of the task (%s)",
      async (death) => {
        for (let step = 0; ; step += 1) {
          const fixture = servers().fixture();
          const flow = await mixedFlow(fixture);
          const caller = new DyingValkey(servers().valkey, step, death);
          const options = { reason: REASON, graceMs: 0 };
          await cancelFlow({ valkey: caller, router: ROUTER }, fixture.flow.id, options).catch(
            () => undefined,
          );
          const hasClosed =
            (await fixture.read("hget", fixture.flow.core, "public_flow_state")) === "cancelled";
          if (!hasClosed)
            await cancelFlow({ valkey: servers().valkey, router: ROUTER }, fixture.flow.id, options);
          // The first pipeline of a run reads its pages.
          const task = new DyingValkey(servers().valkey, 1 + step, death);
          await sweep(portsOf(fixture, { valkey: task })).catch(() => undefined);
          await expireLease();
          await sweep(portsOf(fixture));
          await expectCancelled(fixture, flow, REASON);
          if (caller.hasDied || task.hasDied) continue;
          // The caller: close, read, cancel, acknowledge. The task, after its pages: flows, then the same.
          expect(step).toBeGreaterThanOrEqual(4);
          return;
        }
      },
      60_000,
    );

    it("entries that are no flow, of deleted flows and without members are removed", async () => {
      const [gone, empty] = [servers().fixture(), servers().fixture()];
      await gone.read("sadd", gone.flow.pendingCancels, gone.newExecution().id);
      await gone.read("zadd", gone.index.cancelBacklog, 1, gone.flow.id);
      await empty.createFlow();
      await empty.read("zadd", empty.index.cancelBacklog, 1, empty.flow.id, 2, "no flow");
      const ports = servers().ports([gone, empty], { tasks: [cancellations] });
      expect(await sweep(ports)).toMatchObject({ state: "complete", unreadable: 1 });
      expect(await gone.read("exists", gone.flow.pendingCancels, gone.index.cancelBacklog)).toBe(0);
      expect(await empty.read("exists", empty.index.cancelBacklog)).toBe(0);
    });

    it("that cannot be cancelled are acknowledged and reported, with the default reason for the others", async () => {
      const fixture = servers().fixture();
      const [good, broken] = [await fixture.member(), await fixture.member()];
      await fixture.read("hset", broken.core, "lane_id", "");
      await fixture.done(closeFlow(fixture.flow, fixture.index, "", "cancel_all", 0, 0));
      await fixture.read("sadd", fixture.flow.pendingCancels, "no id");
      expect(await sweep(portsOf(fixture))).toMatchObject({ state: "complete", unreadable: 2 });
      expect(await fixture.hash(good.core)).toMatchObject({ cancellation_reason: "flow_cancelled" });
      await expectNothingPending(fixture);
    });

    it("stay pending after a temporary error, and the library is loaded where it is missing", async () => {
      const fixture = servers().fixture();
      const member = await fixture.member();
      await fixture.done(closeFlow(fixture.flow, fixture.index, REASON, "cancel_all", 0, 0));
      const { valkey } = servers();
      const down = new InterceptedPipelines(valkey, async (_call, send, commands) =>
        commands.some(({ args }) => args[0] === "ff_cancel_execution")
          ? commands.map(() => ({ ok: false, error: new Error("LOADING the dataset") }))
          : send(),
      );
      const failing = Object.assign(down, { call: valkey.call.bind(valkey) });
      expect(await sweep(portsOf(fixture, { valkey: failing }))).toMatchObject({ state: "incomplete" });
      expect(await fixture.read("smembers", fixture.flow.pendingCancels)).toEqual([member.id]);
      await onEveryPrimary(valkey, "function", "FLUSH", "SYNC");
      expect(await sweep(portsOf(fixture))).toMatchObject({ state: "complete" });
      await ensureLibrary(valkey, 14);
      expect(await stateOf(fixture, member)).toBe("cancelled");
      await expectNothingPending(fixture);
    });
  });

  describe("siblings of decided groups", () => {
    /** A decided group with two siblings, one of which has a child of its own. */
    async function decided() {
      const fixture = servers().fixture();
      const child = await fixture.member();
      await fixture.group(child, { variant: "any_of", onSatisfied: "cancel_remaining" });
      const [winner, first, second] = [
        await fixture.member(),
        await fixture.member(),
        await fixture.member(),
      ];
      const edge = await fixture.edge(winner, child);
      for (const sibling of [first, second]) await fixture.edge(sibling, child);
      const dependent = await fixture.member();
      await fixture.edge(first, dependent);
      await fixture.finish(winner, "success");
      await fixture.done(fixture.resolution(edge, "success"));
      return { fixture, child, siblings: [first, second], dependent };
    }

    const pendingOf = (fixture: FlowFixture) => fixture.read("smembers", fixture.index.pendingCancelGroups);
    const idsOf = (executions: readonly ExecKeys[]) => executions.map(({ id }) => id).sort();
    const statesOf = (fixture: FlowFixture, executions: readonly ExecKeys[]) =>
      Promise.all(executions.map((keys) => stateOf(fixture, keys)));

    it("are cancelled, their completions sent, and the group drained; their own children are skipped", async () => {
      const { fixture, siblings, dependent } = await decided();
      const [running] = siblings;
      if (running !== undefined) await fixture.claim(running);
      expect(await sweep(portsOf(fixture))).toMatchObject({
        state: "complete",
        tasks: {
          cancellations: { counts: { [METRICS.siblingsCancelled]: 2, [METRICS.completionsSent]: 2 } },
        },
      });
      expect(await statesOf(fixture, siblings)).toEqual(["cancelled", "cancelled"]);
      expect(await pendingOf(fixture)).toEqual([]);
      const events = await servers().queue.drainEvents();
      expect(events.map(({ executionId }) => executionId).sort()).toEqual(idsOf(siblings));
      for (const event of events) {
        expect(await dispatchOne(dispatcherPorts(servers().valkey, servers().queue), event)).toEqual([]);
      }
      expect(await stateOf(fixture, dependent)).toBe("skipped");
      expect(await sweep(portsOf(fixture))).toMatchObject({ tasks: { cancellations: { scanned: 0 } } });
    });

    it.each(DEATHS)(
      "survive a crash at any step (%s)",
      async (death) => {
        for (let step = 1; ; step += 1) {
          const { fixture, child, siblings } = await decided();
          const dying = new DyingValkey(servers().valkey, step, death);
          await sweep(portsOf(fixture, { valkey: dying })).catch(() => undefined);
          await expireLease();
          // The claim and the marks of the sends expire.
          await fixture.read("del", fixture.flow.cancelClaim(child.id));
          for (const { resent } of siblings.map((keys) => ({ resent: keys.resent(fixture.flow.id) }))) {
            await fixture.read("del", resent);
          }
          await sweep(portsOf(fixture));
          expect(await statesOf(fixture, siblings)).toEqual(["cancelled", "cancelled"]);
          expect(await pendingOf(fixture)).toEqual([]);
          const sent = await servers().drainSent();
          expect([...new Set(sent)]).toEqual(idsOf(siblings));
          expect(sent.length).toBeLessThanOrEqual(4);
          if (dying.hasDied) continue;
          // Pages, claim, read, cancel, marks, send marks (2), marks, drain, release.
          expect(step).toBeGreaterThanOrEqual(9);
          return;
        }
      },
      60_000,
    );

    it("whose completion is not accepted stay pending, and are sent again after a minute", async () => {
      const { fixture, child, siblings } = await decided();
      const error = new PublishError("no answer", "unknown");
      const failing = {
        send: async (all: readonly unknown[]) => all.map(() => ({ ok: false, error }) as const),
      };
      expect(await sweep(portsOf(fixture, { publisher: failing }))).toMatchObject({ state: "incomplete" });
      expect(await pendingOf(fixture)).toEqual([`${fixture.flow.id}|${child.id}`]);
      await fixture.read("del", fixture.flow.cancelClaim(child.id));
      // The queue may have accepted the completion.
      expect(await sweep(portsOf(fixture))).toMatchObject({ state: "complete" });
      expect(await servers().drainSent()).toEqual([]);
      expect(await pendingOf(fixture)).toHaveLength(1);
      for (const keys of siblings) {
        const key = keys.resent(fixture.flow.id);
        const [end = "", sends = ""] = String(await fixture.read("get", key)).split("|");
        await fixture.read("set", key, `${end}|${sends}|${Date.now() - 61_000}`);
      }
      expect(await sweep(portsOf(fixture))).toMatchObject({ state: "complete" });
      expect(await servers().drainSent()).toEqual(idsOf(siblings));
      expect(await pendingOf(fixture)).toEqual([]);
    });

    it("of a group that dispatch has claimed are left to it", async () => {
      const { fixture, child, siblings } = await decided();
      await fixture.read("set", fixture.flow.cancelClaim(child.id), "1");
      expect(await sweep(portsOf(fixture))).toMatchObject({ state: "complete" });
      expect(await statesOf(fixture, siblings)).toEqual(["waiting", "waiting"]);
    });

    it("a sibling whose record is invalid keeps its group pending, and no other", async () => {
      const { fixture, siblings, child } = await decided();
      const [broken] = siblings;
      if (broken !== undefined) await fixture.read("hset", broken.core, "lane_id", "");
      expect(await sweep(portsOf(fixture))).toMatchObject({ state: "complete", unreadable: 1 });
      expect(await statesOf(fixture, siblings)).toEqual(["waiting", "cancelled"]);
      expect(await pendingOf(fixture)).toEqual([`${fixture.flow.id}|${child.id}`]);
    });

    it("malformed entries are removed, and groups without siblings are drained", async () => {
      const { fixture, child, siblings } = await decided();
      for (const keys of siblings) await fixture.finish(keys, "success");
      const { pendingCancelGroups } = fixture.index;
      const stale = `${fixture.flow.id}|${fixture.newExecution().id}`;
      await fixture.read(
        "sadd",
        pendingCancelGroups,
        "no group",
        `${fixture.flow.id}|no id`,
        `no flow|${child.id}`,
        stale,
      );
      expect(await sweep(portsOf(fixture))).toMatchObject({ state: "complete", unreadable: 3 });
      expect(await pendingOf(fixture)).toEqual([]);
      expect(
        await fixture.read("hexists", fixture.flow.edgeGroup(child.id), "cancel_siblings_pending_flag"),
      ).toBe(0);
    });

    it("are left to the next run when the time is up", async () => {
      const { fixture, child } = await decided();
      let nowMs = Date.now();
      const { valkey } = servers();
      const slow = new InterceptedPipelines(valkey, (_call, send, commands) => {
        if (commands.some(({ name, args }) => name === "set" && String(args[0]).endsWith(":cancel_claim")))
          nowMs += 60_000;
        return send();
      });
      const ports = {
        valkey: Object.assign(slow, { call: valkey.call.bind(valkey) }),
        deadlineMs: nowMs + 50_000,
      };
      expect(await sweep(portsOf(fixture, { ...ports, now: () => nowMs }))).toMatchObject({
        state: "out_of_time",
      });
      expect(await pendingOf(fixture)).toEqual([`${fixture.flow.id}|${child.id}`]);
      await expireLease();
      expect(await sweep(portsOf(fixture))).toMatchObject({ state: "complete" });
      expect(await pendingOf(fixture)).toEqual([]);
    });
  });
});
