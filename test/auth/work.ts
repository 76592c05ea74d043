/** The complete work of each function: every command and every key pattern that it can use. */

import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { expect } from "vitest";
import type { FunctionProcess } from "#local/function-process.ts";
import type { Edition } from "#shared/contract/edition.ts";
import { cancelFlow } from "#shared/contract/graph.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { EDITION_KEY, PARTITION_CONFIG_KEY } from "#shared/contract/keys.ts";
import { DEFAULT_PARTITION_CONFIG, PartitionRouter } from "#shared/contract/partitions.ts";
import type { Edge } from "#shared/contract/submission.ts";
import { acquireLease } from "#shared/reconcile/lease.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { recordOf } from "#test/auth/built.ts";
import { bulkFamily, family, type QueueProbe, stateOf } from "#test/support/dispatch.ts";
import { attempt, FlowFixture, LANE } from "#test/support/flow-fixture.ts";
import { backdateEnd } from "#test/support/reconcile.ts";

/** A router with few partitions, since a sweep visits all of them. */
const ROUTER = new PartitionRouter(DEFAULT_PARTITION_CONFIG);
const DAY_MS = 86_400_000;
/** More edges than the dispatcher resolves in one window. */
const MANY_EDGES = 2_600;

/**
 * Runs one piece of work, which the administrator has set up, with the function, and checks the result. `own` is a client
 * of the function's user.
 */
export type Work = (fn: FunctionProcess, own: Valkey) => Promise<void>;

/** Sets up the work of a function in an edition. */
export type WorkOf = (valkey: Valkey, edition: Edition, queue: QueueProbe) => Promise<Work>;

/** Children that become eligible, with and without their parent's result, and skipped ones, one during its attempt. */
const dispatch: WorkOf = async (valkey, edition, queue) => {
  const fixture = new FlowFixture(valkey, LANE, ROUTER, edition);
  const good = await family(fixture, 2, "result");
  await fixture.finish(good.parent, "success", "a result");
  const [delayed] = good.children;
  if (delayed === undefined) throw new Error("no child");
  await fixture.read("hset", delayed.core, "delay_until", "1000");
  const bad = await family(fixture, 2);
  await beginAttempt(fixture, bad.children);
  await fixture.finish(bad.parent, "failed");
  // Another delivery crashed before it published its skipped children.
  const left = await family(fixture, 1);
  await fixture.finish(left.parent, "failed");
  for (const edge of left.edges) await fixture.done(fixture.resolution(edge, "failed"));
  // A child whose record was deleted has no lane: its index keys are placeholders.
  const orphaned = await family(fixture, 1);
  await fixture.finish(orphaned.parent, "failed");
  for (const child of orphaned.children) await fixture.read("del", child.core);
  const parents = [good.parent, bad.parent, left.parent, orphaned.parent];
  const siblings = edition === 14 ? await firstOfAny(fixture) : undefined;
  if (siblings !== undefined) parents.push(siblings.first);
  // A flow that Sluice 0.1 created: nothing counts its members.
  const uncounted = new FlowFixture(valkey, LANE, ROUTER, edition);
  const old = await family(uncounted, 1);
  await uncounted.finish(old.parent, "failed");
  await uncounted.read("del", uncounted.flow.summary);
  const wide = new FlowFixture(valkey, LANE, ROUTER, edition);
  const many = await bulkFamily(wide, MANY_EDGES);
  await wide.finish(many.parent, "success");
  return async (fn) => {
    const records = [
      ...parents.map(({ id }) => recordOf({ execution_id: id, flow_id: fixture.flow.id })),
      recordOf({ execution_id: many.parent.id, flow_id: wide.flow.id }),
      recordOf({ execution_id: old.parent.id, flow_id: uncounted.flow.id }),
    ];
    expect(await fn.invoke({ Records: records })).toEqual({ batchItemFailures: [] });
    const states = [...good.children, ...bad.children, ...left.children].map((child) =>
      stateOf(fixture, child),
    );
    const [eligible, skipped] = ["waiting", "skipped"];
    expect(await Promise.all(states)).toEqual([eligible, eligible, skipped, skipped, skipped]);
    if (siblings !== undefined) expect(await stateOf(fixture, siblings.running)).toBe("cancelled");
    expect(await queue.drainEvents()).toHaveLength(siblings === undefined ? 4 : 5);
  };
};

async function beginAttempt(fixture: FlowFixture, [child]: readonly ExecKeys[]): Promise<void> {
  if (child === undefined) throw new Error("no child");
  await fixture.read(
    "hset",
    child.core,
    ...["lifecycle_phase", "active", "ownership_state", "leased", "eligibility_state", "not_applicable"],
    ...["attempt_state", "running_attempt", "current_attempt_index", "0"],
  );
  await fixture.read("hset", child.attempt(attempt(0)), "attempt_state", "started");
  await fixture.read("xadd", child.leaseHistory, "*", "event", "replay_initiated");
  await fixture.read("hset", child.streamMeta(attempt(0)), "closed_at", "");
}

/** An upstream that decides its child's group, and the other upstream, which runs and must be cancelled. */
async function firstOfAny(fixture: FlowFixture): Promise<{ first: ExecKeys; running: ExecKeys; edge: Edge }> {
  const child = await fixture.member();
  await fixture.group(child, { variant: "any_of", onSatisfied: "cancel_remaining" });
  const [first, running] = [await fixture.member(), await fixture.member()];
  const edge = await fixture.edge(first, child);
  await fixture.edge(running, child);
  await fixture.finish(first, "success");
  await fixture.claim(running);
  return { first, running, edge };
}

/**
 * A completion whose event was lost, and a blocked execution without unsatisfied dependencies; a lease that ran out, one of
 * them too often, an attempt that ran too long and a delay that is over; a member of a cancelled flow and, with groups, a
 * sibling that are still to be cancelled.
 */
const reconcile: WorkOf = async (valkey, edition, queue) => {
  const fixture = new FlowFixture(valkey, LANE, ROUTER, edition);
  const missed = await family(fixture, 1);
  await fixture.finish(missed.parent, "failed");
  await backdateEnd(fixture, missed.parent, 60_000);
  const stuck = await family(fixture, 1);
  const [child] = stuck.children;
  const [edge] = stuck.edges;
  if (child === undefined || edge === undefined) throw new Error("no child");
  await fixture.read("hset", child.depsMeta, "unsatisfied_required_count", "0");
  await fixture.read("srem", child.depsUnresolved, edge.id);
  const past = Date.now() - 60_000;
  const [dead, hopeless, slow] = [await running(fixture), await running(fixture), await running(fixture)];
  for (const keys of [dead, hopeless]) {
    await fixture.read("hset", keys.core, "lease_expires_at", past);
    await fixture.read("zadd", fixture.index.leaseExpiry, past, keys.id);
  }
  await fixture.read("hset", hopeless.core, "lease_reclaim_count", 5);
  await fixture.read("zadd", fixture.index.attemptTimeout, past, slow.id);
  const delayed = await fixture.execution({ delayUntil: Date.now() + 60_000 });
  await fixture.read("hset", delayed.core, "delay_until", past);
  await fixture.read("zadd", fixture.index.lane(LANE).delayed, past, delayed.id);
  // A flow that Sluice 0.1 created: nothing counts its members.
  const uncounted = new FlowFixture(valkey, LANE, ROUTER, edition);
  const counted = await running(uncounted);
  await uncounted.read("zadd", uncounted.index.attemptTimeout, past, counted.id);
  await uncounted.read("del", uncounted.flow.summary);
  const ended = [await endedFlow(valkey, edition), await endedFlow(valkey, edition, 1_000)];
  const cancelled = new FlowFixture(valkey, LANE, ROUTER, edition);
  const member = await cancelled.member();
  await cancelled.claim(member);
  await cancelled.done(cancelFlow(cancelled.flow, cancelled.index, "enough", "cancel_all", 0, 0));
  const siblings = edition === 14 ? await firstOfAny(fixture) : undefined;
  if (siblings !== undefined) await fixture.done(fixture.resolution(siblings.edge, "success"));
  return async (fn, own) => {
    // A sweep of more than two seconds renews its lease with this command.
    const acquired = await acquireLease(own);
    expect(await acquired?.lease.renew("here")).toBe(true);
    expect(await acquired?.lease.release("")).toBe(true);
    expect(await fn.invoke({})).toMatchObject({ state: "complete", repaired: 1, promoted: 1, refused: 0 });
    const states = [child, dead, hopeless, slow, delayed].map((keys) => stateOf(fixture, keys));
    expect(await Promise.all(states)).toEqual(["waiting", "active", "failed", "expired", "waiting"]);
    const left = ended.map((flow) => flow.read("exists", flow.flow.core));
    expect(await Promise.all(left)).toEqual([0, 1]);
    expect(await stateOf(cancelled, member)).toBe("cancelled");
    if (siblings !== undefined) expect(await stateOf(fixture, siblings.running)).toBe("cancelled");
    expect(await queue.drainEvents()).toHaveLength(siblings === undefined ? 4 : 5);
    // Otherwise the next sweep finds it again.
    await fixture.read("del", fixture.index.lane(LANE).blockedDependencies);
  };
};

/**
 * A flow that ended a year ago, with a waitpoint and a signal of FlowFabric, and an execution outside any flow. A policy
 * may retain the flow, in days.
 */
async function endedFlow(valkey: Valkey, edition: Edition, retentionDays = 0): Promise<FlowFixture> {
  const fixture = new FlowFixture(valkey, LANE, ROUTER, edition);
  const policyJson = JSON.stringify({ stream_policy: { retention_ttl_ms: retentionDays * DAY_MS } });
  const members = [await fixture.member({ policyJson }), await fixture.member()];
  const [first, second] = members;
  if (first === undefined || second === undefined) throw new Error("no member");
  await fixture.edge(first, second);
  const solo = await fixture.execution();
  await fixture.finish(solo, "success");
  await fixture.finish(first, "success");
  await fixture.cancel(second);
  const { partition } = fixture.flow;
  // Members whose records are gone: more than are read together.
  const gone = Array.from({ length: 600 }, () => fixture.newExecution().id);
  await fixture.read("sadd", fixture.flow.members, ...gone);
  await fixture.read("sadd", `ff:exec:{fp:${partition}}:${first.id}:waitpoints`, "w");
  await fixture.read("zadd", `ff:exec:{fp:${partition}}:${first.id}:signals`, 1, "s");
  const longAgo = Date.now() - 365 * DAY_MS;
  await fixture.read("zadd", fixture.index.flowsEnded, longAgo, fixture.flow.id);
  for (const { id, core } of [...members, solo]) {
    await fixture.read("hset", core, "completed_at", longAgo);
    await fixture.read("zadd", fixture.index.lane(LANE).terminal, longAgo, id);
  }
  return fixture;
}

/** An execution with a child, while a worker runs it and writes to its stream. */
async function running(fixture: FlowFixture): Promise<ExecKeys> {
  const { parent } = await family(fixture, 1);
  await fixture.claim(parent);
  await fixture.read("hset", parent.streamMeta(attempt(0)), "closed_at", "");
  return parent;
}

/** A new deployment without recorded partition counts. */
const provision: WorkOf = async (valkey) => {
  for (const key of [PARTITION_CONFIG_KEY, EDITION_KEY]) await valkey.call("del", key);
  return async (fn) => {
    const cloudFormation = createServer((request, response) => {
      request.resume().on("end", () => response.end());
    });
    await new Promise<void>((resolve) => cloudFormation.listen(0, "127.0.0.1", resolve));
    const { port } = cloudFormation.address() as AddressInfo;
    try {
      const ResponseURL = `http://127.0.0.1:${port}/answer`;
      const request = { RequestType: "Create", ResponseURL, StackId: "s", RequestId: "r" };
      const answer = await fn.invoke({ ...request, LogicalResourceId: "Library" });
      expect(answer).toMatchObject({ status: "SUCCESS", data: { Partitions: "created" } });
    } finally {
      cloudFormation.close();
    }
  };
};

export const WORK: Readonly<Record<string, WorkOf>> = { dispatch, reconcile, provision };
