import { describe, expect, it } from "vitest";
import type { EdgeGroupPolicy } from "#shared/contract/groups.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { completeExecution } from "#shared/contract/ownership.ts";
import type { DispatcherPorts } from "#shared/dispatch/dispatcher.ts";
import { PublishError } from "#shared/errors.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { InterceptedPipelines } from "#test/submission/fixture.ts";
import { dispatchOne, dispatchSetup, eventOf, family, stateOf } from "#test/support/dispatch.ts";
import type { FlowFixture } from "#test/support/flow-fixture.ts";
import { WORKER } from "#test/support/flow-fixture.ts";
import { RoundCounter } from "#test/support/round-counter.ts";
import { DEPLOYMENTS, DEPLOYMENTS_14 } from "#test/support/valkey.ts";

const ANY_OF: EdgeGroupPolicy = { variant: "any_of", onSatisfied: "cancel_remaining" };
const BOTH: EdgeGroupPolicy = { variant: "quorum", onSatisfied: "cancel_remaining", k: 2 };
const SATISFIED = "sibling_quorum_satisfied";

describe.each(DEPLOYMENTS_14)("siblings of a decided group ($name)", (deployment) => {
  const setup = dispatchSetup(deployment);

  /** A child with a group over `size` upstreams. Each upstream but the first also has a child of its own. */
  async function stage(policy: EdgeGroupPolicy, size: number) {
    const fixture = setup.flow();
    const child = await fixture.member();
    await fixture.group(child, policy);
    const upstreams = await Promise.all(Array.from({ length: size }, () => fixture.member()));
    const [first, ...siblings] = upstreams;
    if (first === undefined) throw new RangeError("the group needs an upstream");
    for (const upstream of upstreams) await fixture.edge(upstream, child);
    const dependents = await Promise.all(siblings.map(() => fixture.member()));
    for (const [position, dependent] of dependents.entries()) {
      const sibling = siblings[position];
      if (sibling !== undefined) await fixture.edge(sibling, dependent);
    }
    return { fixture, child, first, siblings, dependents, event: eventOf(first.id, fixture.flow.id) };
  }

  const statesOf = (fixture: FlowFixture, executions: readonly ExecKeys[]) =>
    Promise.all(executions.map((keys) => stateOf(fixture, keys)));

  const pendingOf = (fixture: FlowFixture) => fixture.read("smembers", fixture.index.pendingCancelGroups);

  /** Delivers everything in the queue until it is empty. Returns the completions that were delivered. */
  async function settle(fixture: FlowFixture, ports: DispatcherPorts = setup.ports()) {
    const delivered = [];
    for (;;) {
      const events = await setup.queue.drainEvents();
      if (events.length === 0) return delivered;
      delivered.push(...events);
      for (const event of events) expect(await dispatchOne(ports, event)).toEqual([]);
      void fixture;
    }
  }

  it("are cancelled in the same invocation, whatever their state, and their own children are skipped", async () => {
    const { fixture, child, first, siblings, dependents, event } = await stage(ANY_OF, 4);
    const [active, waiting, blocked] = siblings;
    if (!active || !waiting || !blocked) throw new Error("the group has three siblings");
    const lease = await fixture.claim(active);
    await fixture.edge(await fixture.member(), blocked);
    await fixture.finish(first, "success");
    const ports = setup.ports();
    expect(await dispatchOne(ports, event)).toEqual([]);
    expect(await stateOf(fixture, child)).toBe("waiting");
    for (const sibling of siblings) {
      expect(await fixture.hash(sibling.core)).toMatchObject({
        public_state: "cancelled",
        cancellation_reason: SATISFIED,
      });
    }
    const report = completeExecution(fixture.target(active), WORKER, lease, "late");
    expect(await fixture.call(report)).toMatchObject({ kind: "refused", code: "execution_not_active" });
    expect(await pendingOf(fixture)).toEqual([]);
    expect(await fixture.read("exists", fixture.flow.cancelClaim(child.id))).toBe(0);
    expect(ports.telemetry.counts.get(METRICS.siblingsCancelled)).toBe(3);
    expect(ports.telemetry.warnings).toEqual([]);
    const sent = await settle(fixture);
    expect(
      sent
        .filter(({ depth }) => depth === 1)
        .map(({ executionId }) => executionId)
        .sort(),
    ).toEqual(siblings.map(({ id }) => id).sort());
    expect(sent.filter(({ depth }) => depth === 2)).toHaveLength(dependents.length);
    expect(new Set(sent.map(({ root }) => root))).toEqual(new Set([first.id]));
    expect(await statesOf(fixture, dependents)).toEqual(["skipped", "skipped", "skipped"]);
    // A redelivery finds nothing to do.
    expect(await dispatchOne(setup.ports(), event)).toEqual([]);
    expect(await setup.queue.drain()).toEqual([]);
  });

  it("are cancelled when the group becomes impossible; the child is skipped", async () => {
    const { fixture, child, first, siblings, dependents, event } = await stage(BOTH, 2);
    await fixture.finish(first, "failed");
    expect(await dispatchOne(setup.ports(), event)).toEqual([]);
    expect(await stateOf(fixture, child)).toBe("skipped");
    expect(await statesOf(fixture, siblings)).toEqual(["cancelled"]);
    await settle(fixture);
    expect(await statesOf(fixture, dependents)).toEqual(["skipped"]);
    expect(await pendingOf(fixture)).toEqual([]);
  });

  it("cost five more round trips, and a partition with other pending groups one", async () => {
    const { fixture, first, event } = await stage(ANY_OF, 3);
    await fixture.finish(first, "success");
    const counter = new RoundCounter(setup.valkey);
    await dispatchOne(setup.ports({ valkey: counter }), event);
    // Which groups; claim and siblings; records; calls; marks read; marks written; drain; claim removed.
    expect(counter.rounds).toBe(4 + 8);
    await setup.queue.drain();

    const ordinary = await family(fixture, 2);
    await fixture.finish(ordinary.parent, "success");
    await fixture.read("sadd", fixture.index.pendingCancelGroups, "another flow|its child");
    const other = new RoundCounter(setup.valkey);
    await dispatchOne(setup.ports({ valkey: other }), eventOf(ordinary.parent.id, fixture.flow.id));
    expect(other.rounds).toBe(4 + 1);
  });

  it("are cancelled beyond 1,024, in slices", async () => {
    const { fixture, first, child, event } = await stage(ANY_OF, 2);
    await fixture.finish(first, "success");
    const { publisher, ...ports } = setup.ports();
    const dying = { ...ports, publisher: { send: () => Promise.reject(new Error("the process died")) } };
    await expect(dispatchOne(dying, event)).rejects.toThrow("the process died");
    // As if the group had more upstreams: staging so many edges would take longer than the test.
    const siblings = await Promise.all(Array.from({ length: 1_100 }, () => fixture.member()));
    const group = fixture.flow.edgeGroup(child.id);
    await fixture.read(
      "hset",
      group,
      "cancel_siblings_pending_members",
      siblings.map(({ id }) => id).join("|"),
    );
    await fixture.read("del", fixture.flow.cancelClaim(child.id));
    expect(await dispatchOne({ ...ports, publisher }, event)).toEqual([]);
    expect(new Set(await statesOf(fixture, siblings))).toEqual(new Set(["cancelled"]));
    const sent = await setup.queue.drainEvents();
    expect(sent.map(({ executionId }) => executionId).sort()).toEqual(siblings.map(({ id }) => id).sort());
    expect(await pendingOf(fixture)).toEqual([]);
  }, 60_000);

  // Either the step was not executed, or it was and its reply is lost.
  it.each([false, true])("survive a crash at any step (executed: %s)", async (isExecuted) => {
    for (let steps = 0; ; steps += 1) {
      const { fixture, child, first, siblings, dependents, event } = await stage(ANY_OF, 3);
      await fixture.finish(first, "success");
      let step = 0;
      const orDie = async <T>(run: () => Promise<T>): Promise<T> => {
        step += 1;
        if (step <= steps) return run();
        if (step === steps + 1 && isExecuted) await run();
        throw new Error("the process died");
      };
      const { publisher, ...ports } = setup.ports();
      const dying = {
        ...ports,
        valkey: new InterceptedPipelines(setup.valkey, (_call, send) => orDie(send)),
        publisher: {
          send: (completions: Parameters<typeof publisher.send>[0]) =>
            completions.length === 0 ? publisher.send([]) : orDie(() => publisher.send(completions)),
        },
      };
      const isOver = await dispatchOne(dying, event).then(
        () => true,
        () => false,
      );
      // The claims expire before the message is redelivered.
      await fixture.read("del", fixture.flow.cancelClaim(child.id), child.cascadeClaim);
      expect(await dispatchOne(setup.ports(), event)).toEqual([]);
      const sent = await settle(fixture);
      expect(await stateOf(fixture, child)).toBe("waiting");
      expect(await statesOf(fixture, [...siblings, ...dependents])).toEqual([
        "cancelled",
        "cancelled",
        "skipped",
        "skipped",
      ]);
      expect(await pendingOf(fixture)).toEqual([]);
      for (const { id } of siblings) {
        const copies = sent.filter(({ executionId }) => executionId === id).length;
        expect(copies).toBeGreaterThanOrEqual(1);
        expect(copies).toBeLessThanOrEqual(2);
      }
      if (isOver) {
        expect(steps).toBe(4 + 8 + 1);
        return;
      }
    }
  });

  it("in two groups are published once, and both groups are drained", async () => {
    const { fixture, child, first, siblings, event } = await stage(ANY_OF, 2);
    const other = await fixture.member();
    await fixture.group(other, ANY_OF);
    for (const upstream of [first, ...siblings]) await fixture.edge(upstream, other);
    await fixture.finish(first, "success");
    expect(await dispatchOne(setup.ports(), event)).toEqual([]);
    expect((await setup.queue.drainEvents()).map(({ executionId }) => executionId)).toEqual(
      siblings.map(({ id }) => id),
    );
    expect(await statesOf(fixture, [child, other])).toEqual(["waiting", "waiting"]);
    expect(await pendingOf(fixture)).toEqual([]);
  });

  it("that ended otherwise or have no record are done; one that was cancelled without a mark is published", async () => {
    const { fixture, first, siblings, event } = await stage(ANY_OF, 5);
    const [succeeded, gone, cancelled, published] = siblings;
    if (!succeeded || !gone || !cancelled || !published) throw new Error("the group has four siblings");
    await fixture.finish(first, "success");
    const ports = setup.ports();
    // They change after the library has listed them.
    const valkey = new InterceptedPipelines(setup.valkey, async (_call, send, commands) => {
      if (commands.some(({ name }) => name === "smismember")) {
        await fixture.finish(succeeded, "success");
        await fixture.read("del", gone.core);
        await fixture.cancel(cancelled);
        await fixture.cancel(published);
        const completedAt = String(await fixture.read("hget", published.core, "completed_at"));
        await fixture.read("set", published.cascade, completedAt);
      }
      return send();
    });
    expect(await dispatchOne({ ...ports, valkey }, event)).toEqual([]);
    expect((await setup.queue.drainEvents()).map(({ executionId }) => executionId)).toEqual([cancelled.id]);
    expect(await pendingOf(fixture)).toEqual([]);
    expect(ports.telemetry.counts.get(METRICS.siblingsCancelled)).toBeUndefined();
  });

  it.each(["refused", "unknown"] as const)(
    "whose send is %s stay pending: the message is acknowledged, and the next caller continues",
    async (outcome) => {
      const { fixture, child, first, siblings, event } = await stage(ANY_OF, 3);
      await fixture.finish(first, "success");
      const error = new PublishError("no", outcome);
      const ports = setup.ports({
        publisher: { send: async (completions) => completions.map(() => ({ ok: false, error })) },
      });
      expect(await dispatchOne(ports, event)).toEqual([]);
      expect(await pendingOf(fixture)).toEqual([`${fixture.flow.id}|${child.id}`]);
      expect(ports.telemetry.counts.get(METRICS.groupsLeft)).toBe(1);
      // After a send without an answer, the claim stays: the queue may have accepted the message.
      expect(await fixture.read("exists", fixture.flow.cancelClaim(child.id))).toBe(
        outcome === "unknown" ? 1 : 0,
      );
      expect(await dispatchOne(setup.ports(), event)).toEqual([]);
      expect(await setup.queue.drainEvents()).toHaveLength(outcome === "unknown" ? 0 : 2);
      await fixture.read("del", fixture.flow.cancelClaim(child.id));
      expect(await dispatchOne(setup.ports(), event)).toEqual([]);
      expect(await setup.queue.drainEvents()).toHaveLength(outcome === "unknown" ? 2 : 0);
      expect(await statesOf(fixture, siblings)).toEqual(["cancelled", "cancelled"]);
      expect(await pendingOf(fixture)).toEqual([]);
    },
  );

  it("are left when the time is up: no sibling is lost, and the group stays pending", async () => {
    const { fixture, child, first, siblings, event } = await stage(ANY_OF, 3);
    await fixture.finish(first, "success");
    let nowMs = Date.now();
    const deadlineMs = nowMs + 60_000;
    const valkey = new InterceptedPipelines(setup.valkey, (_call, send, commands) => {
      if (commands.some(({ name }) => name === "smismember")) nowMs = deadlineMs;
      return send();
    });
    const ports = setup.ports({ valkey, deadlineMs, now: () => nowMs });
    expect(await dispatchOne(ports, event)).toEqual([]);
    expect(await statesOf(fixture, siblings)).toEqual(["waiting", "waiting"]);
    expect(await pendingOf(fixture)).toEqual([`${fixture.flow.id}|${child.id}`]);
    expect(ports.telemetry.counts.get(METRICS.groupsLeft)).toBe(1);
  });

  it("of a group that is claimed are left to the process that has claimed it", async () => {
    const { fixture, child, first, siblings, event } = await stage(ANY_OF, 2);
    await fixture.finish(first, "success");
    await fixture.read("set", fixture.flow.cancelClaim(child.id), "1");
    const ports = setup.ports();
    expect(await dispatchOne(ports, event)).toEqual([]);
    expect(await statesOf(fixture, siblings)).toEqual(["waiting"]);
    expect(ports.telemetry.warnings).toEqual([]);
  });
});

describe.each(DEPLOYMENTS)("with the 11-KEYS edition ($name)", (deployment) => {
  const setup = dispatchSetup(deployment);

  it("an index of pending groups that cannot be read fails no message", async () => {
    const fixture = setup.flow();
    const { parent, children } = await family(fixture, 2);
    await fixture.finish(parent, "success");
    await fixture.read("set", fixture.index.pendingCancelGroups, "no set");
    const ports = setup.ports();
    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(await Promise.all(children.map((child) => stateOf(fixture, child)))).toEqual([
      "waiting",
      "waiting",
    ]);
    expect(ports.telemetry.warnings).toMatchObject([{ fields: { key: fixture.index.pendingCancelGroups } }]);
  });
});
