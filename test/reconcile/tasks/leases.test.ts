import { randomUUID } from "node:crypto";
import { describe, expect, it } from "vitest";
import type { ValkeyCommand } from "#shared/contract/command.ts";
import { type ExecKeys, readyResentKey } from "#shared/contract/keys.ts";
import { issueReclaimGrant, reclaimExecution, renewLease } from "#shared/contract/upkeep.ts";
import { type ReconcilerPorts, sweep } from "#shared/reconcile/sweep.ts";
import { dependencies } from "#shared/reconcile/tasks/dependencies.ts";
import { DEFAULT_RECLAIM_LIMIT, leases } from "#shared/reconcile/tasks/leases.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { stateOf } from "#test/support/dispatch.ts";
import { DEATHS, DyingValkey, losingReplies } from "#test/support/dying-valkey.ts";
import { attempt, type FlowFixture, LANE, ROUTER, WORKER } from "#test/support/flow-fixture.ts";
import { readyPorts } from "#test/support/ready.ts";
import { backdateEnd, MINUTE_MS, SERVER_KINDS, useReconcilerServers } from "#test/support/reconcile.ts";

const POLICY = (limit: number) => JSON.stringify({ max_reclaim_count: limit });

/** Makes the lease of a claimed execution run out a minute ago. */
async function runOut(fixture: FlowFixture, keys: ExecKeys, reclaims = 0): Promise<void> {
  const past = Date.now() - MINUTE_MS;
  await fixture.read("hset", keys.core, "lease_expires_at", past, "lease_reclaim_count", reclaims);
  await fixture.read("zadd", fixture.index.leaseExpiry, past, keys.id);
}

async function lost(
  fixture: FlowFixture,
  reclaims = 0,
  policyJson = "",
  withChild = true,
): Promise<ExecKeys> {
  const keys = await fixture.member({ policyJson });
  if (withChild) await fixture.edge(keys, await fixture.member());
  await fixture.claim(keys);
  await runOut(fixture, keys, reclaims);
  return keys;
}

describe.each(SERVER_KINDS)("the task leases (%s)", (kind) => {
  const servers = useReconcilerServers(kind);
  const portsOf = (fixture: FlowFixture, overrides: Partial<Omit<ReconcilerPorts, "telemetry">> = {}) =>
    servers().ports([fixture], { tasks: [leases], ...overrides });
  const ownershipOf = (fixture: FlowFixture, keys: ExecKeys) =>
    fixture.read("hget", keys.core, "ownership_state");

  /** Counts the calls of library functions. */
  function counting(ports: ReconcilerPorts): ReconcilerPorts["valkey"] & { readonly calls: string[] } {
    const calls: string[] = [];
    return {
      calls,
      call: ports.valkey.call.bind(ports.valkey),
      pipelined: (commands: readonly ValkeyCommand[]) => {
        for (const { name, args } of commands) if (name === "fcall") calls.push(String(args[0]));
        return ports.valkey.pipelined(commands);
      },
    };
  }

  it("marks a lease that ran out, and no other; the execution stays active", async () => {
    const fixture = servers().fixture();
    const dead = await lost(fixture);
    const alive = await fixture.member();
    await fixture.claim(alive);
    const ports = portsOf(fixture);
    expect(await sweep(ports)).toMatchObject({
      state: "complete",
      tasks: { leases: { state: "complete", scanned: 1, counts: { [METRICS.leasesExpired]: 1 } } },
    });
    expect(ports.telemetry.counts.get(METRICS.leasesExpired)).toBe(1);
    expect(await ownershipOf(fixture, dead)).toBe("lease_expired_reclaimable");
    expect(await stateOf(fixture, dead)).toBe("active");
    expect(await ownershipOf(fixture, alive)).toBe("leased");
    expect(await servers().drainSent()).toEqual([]);
  });

  it("calls nothing for a marked lease below the limit, however often it sweeps", async () => {
    const fixture = servers().fixture();
    await lost(fixture, DEFAULT_RECLAIM_LIMIT - 1);
    await sweep(portsOf(fixture));
    const ports = portsOf(fixture);
    const valkey = counting(ports);
    expect(await sweep({ ...ports, valkey })).toMatchObject({ tasks: { leases: { scanned: 1 } } });
    expect(valkey.calls).toEqual([]);
  });

  it("announces what became reclaimable once, and sends it again after the grace if no worker reclaims it", async () => {
    const fixture = servers().fixture();
    const dead = await lost(fixture);
    const exhausted = await lost(fixture, DEFAULT_RECLAIM_LIMIT);
    const readyQueues = readyPorts();
    const announced = { executionId: dead.id, flowId: fixture.flow.id, lane: LANE, kind: "task" };
    expect(await sweep(portsOf(fixture, { readyQueues }))).toMatchObject({
      tasks: { leases: { counts: { [METRICS.readyAnnounced]: 1, [METRICS.readyResent]: 0 } } },
    });
    expect(await stateOf(fixture, exhausted)).toBe("failed");
    expect(readyQueues.publisher.announced).toEqual([{ ...announced, delaySeconds: 0 }]);
    // The lease ran out a minute ago, which is longer than the grace.
    expect(await sweep(portsOf(fixture, { readyQueues }))).toMatchObject({
      tasks: { leases: { counts: { [METRICS.readyAnnounced]: 0, [METRICS.readyResent]: 1 } } },
    });
    expect(readyQueues.publisher.announced.slice(1)).toEqual([announced]);
    await sweep(portsOf(fixture, { readyQueues }));
    expect(readyQueues.publisher.announced).toHaveLength(2);
    // Within the grace, nothing is sent again.
    const patient = readyPorts();
    await fixture.read("del", readyResentKey(dead.id, fixture.flow.id));
    await sweep(portsOf(fixture, { readyQueues: patient, graceMs: 2 * MINUTE_MS }));
    expect(patient.publisher.announced).toEqual([]);
  });

  it.each(DEATHS)("announces what a dead run has marked: %s", async (death) => {
    for (let at = 0; ; at += 1) {
      const fixture = servers().fixture();
      const dead = await lost(fixture, 0, "", false);
      const readyQueues = readyPorts();
      const ports = portsOf(fixture, { readyQueues });
      const dying = new DyingValkey(ports.valkey, at, death);
      await sweep({ ...ports, valkey: dying }).catch(() => undefined);
      await servers().valkey.call("del", "ff:reconcile:{sweep}:lease");
      const before = readyQueues.publisher.announced.length;
      await sweep(portsOf(fixture, { readyQueues }));
      expect(readyQueues.publisher.announced.length).toBe(before + 1);
      expect(new Set(readyQueues.publisher.ids)).toEqual(new Set([dead.id]));
      if (!dying.hasDied) return;
    }
  });

  it.each([
    ["the default", DEFAULT_RECLAIM_LIMIT, ""],
    ["that of the policy", 1, POLICY(1)],
    ["none at all", 0, POLICY(0)],
  ])(
    "fails an execution at the limit of reclaims, and sends its completion: %s",
    async (_, limit, policy) => {
      const fixture = servers().fixture();
      const below = limit === 0 ? undefined : await lost(fixture, limit - 1, policy);
      const at = await lost(fixture, limit, policy);
      const ports = portsOf(fixture);
      expect(await sweep(ports)).toMatchObject({
        tasks: { leases: { counts: { [METRICS.reclaimLimitReached]: 1, [METRICS.completionsSent]: 1 } } },
      });
      expect(await stateOf(fixture, at)).toBe("failed");
      if (below !== undefined) expect(await stateOf(fixture, below)).toBe("active");
      const [event, ...others] = await servers().queue.drainEvents();
      expect(event).toMatchObject({ executionId: at.id, flowId: fixture.flow.id, depth: 0 });
      expect(others).toEqual([]);
      // The mark keeps the task `dependencies` from sending it again at once.
      const end = await fixture.read("hget", at.core, "completed_at");
      expect(await fixture.read("get", at.resent(fixture.flow.id))).toMatch(new RegExp(`^${end}\\|1\\|`));
      expect(await sweep(portsOf(fixture))).toMatchObject({
        tasks: { leases: { counts: { [METRICS.reclaimLimitReached]: 0 } } },
      });
    },
  );

  it("a higher limit of the policy is kept", async () => {
    const fixture = servers().fixture();
    const keys = await lost(fixture, DEFAULT_RECLAIM_LIMIT, POLICY(DEFAULT_RECLAIM_LIMIT + 1));
    await sweep(portsOf(fixture));
    expect(await stateOf(fixture, keys)).toBe("active");
  });

  it.each([
    ["without children", (fixture: FlowFixture) => lost(fixture, DEFAULT_RECLAIM_LIMIT, "", false)],
    [
      "without a flow",
      async (fixture: FlowFixture) => {
        const keys = await fixture.execution();
        await fixture.claim(keys);
        await runOut(fixture, keys, DEFAULT_RECLAIM_LIMIT);
        return keys;
      },
    ],
  ])("sends no completion of an execution %s", async (_, create) => {
    const fixture = servers().fixture();
    const keys = await create(fixture);
    expect(await sweep(portsOf(fixture))).toMatchObject({ state: "complete" });
    expect(await stateOf(fixture, keys)).toBe("failed");
    expect(await servers().drainSent()).toEqual([]);
  });

  it("never takes a lease: a worker with a grant reclaims afterwards", async () => {
    const fixture = servers().fixture();
    const keys = await lost(fixture);
    await sweep(portsOf(fixture));
    await fixture.done(issueReclaimGrant(fixture.target(keys), WORKER, 60_000));
    await sweep(portsOf(fixture));
    expect(await ownershipOf(fixture, keys)).toBe("lease_expired_reclaimable");
    const request = {
      interrupted: attempt(0),
      leaseId: randomUUID(),
      leaseTtlMs: 60_000,
      attemptId: randomUUID(),
    };
    await fixture.done(reclaimExecution(fixture.target(keys), WORKER, request));
    await sweep(portsOf(fixture));
    expect(await ownershipOf(fixture, keys)).toBe("leased");
  });

  it("does not mark a lease that was renewed after the index was read", async () => {
    const fixture = servers().fixture();
    const keys = await fixture.member();
    const lease = await fixture.claim(keys);
    await fixture.read("zadd", fixture.index.leaseExpiry, Date.now() - MINUTE_MS, keys.id);
    const ports = portsOf(fixture);
    const renewing: ReconcilerPorts["valkey"] = {
      call: ports.valkey.call.bind(ports.valkey),
      pipelined: async (commands) => {
        if (commands.some(({ name }) => name === "fcall")) {
          await fixture.done(renewLease(fixture.target(keys), lease, { ttlMs: 60_000, graceMs: 0 }));
        }
        return ports.valkey.pipelined(commands);
      },
    };
    expect(await sweep({ ...ports, valkey: renewing })).toMatchObject({
      tasks: { leases: { counts: { [METRICS.leasesExpired]: 0 } } },
    });
    expect(await ownershipOf(fixture, keys)).toBe("leased");
  });

  it("reaches the leases behind many marked ones, and behind invalid entries", async () => {
    const fixture = servers().fixture();
    const past = Date.now() - 2 * MINUTE_MS;
    for (let index = 0; index < 150; index += 1) {
      const keys = fixture.newExecution();
      await fixture.read(
        "hset",
        keys.core,
        "lane_id",
        "default",
        "ownership_state",
        "lease_expired_reclaimable",
      );
      // Many have the same score: the cursor must not depend on it.
      await fixture.read("zadd", fixture.index.leaseExpiry, past, keys.id);
      await fixture.read("zadd", fixture.index.leaseExpiry, past, `entry ${index}`);
    }
    const last = await lost(fixture);
    // With so many indexes, a page has 100 entries.
    const empty = ROUTER.partitions.slice(-200).filter((partition) => partition !== fixture.flow.partition);
    const ports = servers().ports([fixture, ...empty], { tasks: [leases] });
    expect(await sweep(ports)).toMatchObject({
      state: "complete",
      unreadable: 150,
      tasks: { leases: { scanned: 301, counts: { [METRICS.leasesExpired]: 1 } } },
    });
    expect(await ownershipOf(fixture, last)).toBe("lease_expired_reclaimable");
  });

  it("removes the entries of executions that have ended or have no record", async () => {
    const fixture = servers().fixture();
    const ended = await fixture.member();
    await fixture.finish(ended, "success");
    for (const { id } of [ended, fixture.newExecution()]) {
      await fixture.read("zadd", fixture.index.leaseExpiry, Date.now() - MINUTE_MS, id);
    }
    expect(await sweep(portsOf(fixture))).toMatchObject({ state: "complete", unreadable: 0 });
    expect(await fixture.read("zcard", fixture.index.leaseExpiry)).toBe(0);
  });

  it("skips records that are unreadable, and goes on behind them", async () => {
    const fixture = servers().fixture();
    const broken = await lost(fixture);
    await fixture.read("del", broken.core);
    await fixture.read("set", broken.core, "not a hash");
    const next = await lost(fixture);
    const ports = portsOf(fixture);
    expect(await sweep(ports)).toMatchObject({ state: "complete", unreadable: 1 });
    expect(ports.telemetry.warnings[0]?.fields).toMatchObject({ execution_id: broken.id });
    expect(await ownershipOf(fixture, next)).toBe("lease_expired_reclaimable");
  });

  it.each(DEATHS)("a process may die at any pipeline: %s", async (death) => {
    for (let at = 0; ; at += 1) {
      const fixture = servers().fixture();
      const keys = await lost(fixture, DEFAULT_RECLAIM_LIMIT);
      const ports = portsOf(fixture);
      const valkey = new DyingValkey(ports.valkey, at, death);
      const ended = await sweep({ ...ports, valkey }).then(
        () => "complete",
        () => "died",
      );
      expect(ended).toBe(valkey.hasDied ? "died" : "complete");
      await expectFailedOnce(fixture, keys);
      if (valkey.hasDied) continue;
      expect(at).toBeGreaterThan(4);
      return;
    }
  });

  it("any reply may be lost", async () => {
    for (let at = 0; ; at += 1) {
      const fixture = servers().fixture();
      const keys = await lost(fixture, DEFAULT_RECLAIM_LIMIT);
      const ports = portsOf(fixture);
      const valkey = losingReplies(ports.valkey, at);
      await sweep({ ...ports, valkey });
      await expectFailedOnce(fixture, keys);
      if (valkey.hasLost()) continue;
      expect(at).toBeGreaterThan(4);
      return;
    }
  });

  /** Later sweeps fail the execution if it has not failed yet, and the completion reaches the queue. */
  async function expectFailedOnce(fixture: FlowFixture, keys: ExecKeys): Promise<void> {
    await servers().valkey.call("del", "ff:reconcile:{sweep}:lease", "ff:reconcile:{sweep}:place");
    const sent = await servers().drainSent();
    await sweep(portsOf(fixture));
    expect(await stateOf(fixture, keys)).toBe("failed");
    expect(await fixture.read("hget", keys.core, "failure_reason")).toBe("max_reclaims_exceeded");
    // As if a minute had passed.
    await backdateEnd(fixture, keys, 2 * MINUTE_MS);
    await sweep(portsOf(fixture, { tasks: [dependencies] }));
    sent.push(...(await servers().drainSent()));
    expect(sent).toContain(keys.id);
    expect(sent.length).toBeLessThanOrEqual(2);
  }
});
