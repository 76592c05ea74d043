import { describe, expect, test } from "vitest";
import { replayExecution } from "#shared/contract/graph.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import {
  completeExecution,
  issueClaimGrant,
  type Lease,
  type WorkerIdentity,
} from "#shared/contract/ownership.ts";
import {
  issueReclaimGrant,
  markLeaseExpiredIfDue,
  reclaimExecution,
  renewLease,
  revokeLease,
  updateProgress,
} from "#shared/contract/upkeep.ts";
import { subscribeToCompletions } from "#test/support/completions.ts";
import {
  expectOnlyIn,
  expectRefusal,
  expectTimeIn,
  fixturesOn,
  serverTime,
} from "#test/support/expectations.ts";
import { attempt, type FlowFixture, field, WORKER } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

const TTL_MS = 60_000;
const GRACE_MS = 5_000;
const RENEWAL = { ttlMs: TTL_MS, graceMs: GRACE_MS };
const OTHER: WorkerIdentity = { workerId: "other", instanceId: "other-1" };

describe.each(DEPLOYMENTS_OF_BOTH)("leases that are renewed or lost ($name, $edition KEYS)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  async function claimed(): Promise<{ fixture: FlowFixture; keys: ExecKeys; lease: Lease }> {
    const fixture = newFixture();
    await fixture.createFlow();
    const keys = await fixture.member();
    return { fixture, keys, lease: await fixture.claim(keys, TTL_MS) };
  }

  /** Lets the lease run out, by the record. */
  const letExpire = (fixture: FlowFixture, keys: ExecKeys): Promise<unknown> =>
    fixture.read("hset", keys.core, "lease_expires_at", "1000");

  async function eventsOf(fixture: FlowFixture, keys: ExecKeys): Promise<Record<string, string>[]> {
    const entries = await fixture.read("xrange", keys.leaseHistory, "-", "+");
    return (Array.isArray(entries) ? entries : []).map(([, flat]: [string, string[]]) =>
      Object.fromEntries(
        Array.from({ length: flat.length / 2 }, (_, at) => [flat[2 * at], flat[2 * at + 1]]),
      ),
    );
  }

  /** Marks the lease expired and grants the execution to another worker. */
  async function expired() {
    const { fixture, keys, lease } = await claimed();
    await letExpire(fixture, keys);
    await fixture.done(markLeaseExpiredIfDue(fixture.target(keys)));
    return { fixture, keys, lease };
  }

  const grantTo = (fixture: FlowFixture, keys: ExecKeys, worker: WorkerIdentity): Promise<unknown> =>
    fixture.done(issueReclaimGrant(fixture.target(keys), worker, 60_000));

  const RECLAIM = {
    interrupted: attempt(0),
    leaseId: "lease-2",
    leaseTtlMs: TTL_MS,
    attemptId: "attempt-2",
  };

  test("ff_renew_lease moves the expiry in the record, the lease and lease_expiry", async () => {
    const { fixture, keys, lease } = await claimed();
    const active = await fixture.read("zscore", fixture.index.lane(fixture.lane).active, keys.id);
    const from = await serverTime(fixture);
    const [expiresAt = ""] = await fixture.done(
      renewLease(fixture.target(keys), lease, { ttlMs: 90_000, graceMs: GRACE_MS }),
    );
    expectTimeIn(expiresAt, from + 90_000, (await serverTime(fixture)) + 90_000);
    const renewBy = String(Number(expiresAt) - 30_000);
    expect(await fixture.hash(keys.core)).toMatchObject({
      lease_expires_at: expiresAt,
      lease_renewal_deadline: renewBy,
      current_lease_epoch: lease.epoch,
    });
    expect(await fixture.hash(keys.leaseCurrent)).toMatchObject({
      expires_at: expiresAt,
      renewal_deadline: renewBy,
    });
    expect(await fixture.read("pexpiretime", keys.leaseCurrent)).toBe(Number(expiresAt) + GRACE_MS);
    expect(await fixture.read("zscore", fixture.index.leaseExpiry, keys.id)).toBe(expiresAt);
    expect(await fixture.read("zscore", fixture.index.lane(fixture.lane).active, keys.id)).toBe(active);
  });

  test("a lease after a replay can be renewed, although an earlier one was revoked", async () => {
    const { fixture, keys } = await claimed();
    await fixture.done(revokeLease(fixture.target(keys), WORKER.instanceId, "", "test"));
    await fixture.cancel(keys, "operator_override");
    await fixture.done(replayExecution(keys, fixture.index, fixture.lane, [], 0));
    const lease = await fixture.claim(keys);
    await fixture.done(renewLease(fixture.target(keys), lease, RENEWAL));
    expect(field(await fixture.hash(keys.core), "lease_revoked_at")).toBe("");
  });

  test("ff_renew_lease refuses in the order of the contract, and writes nothing", async () => {
    const { fixture, keys, lease } = await claimed();
    const target = fixture.target(keys);
    const absent = fixture.target(fixture.newExecution());
    await expectRefusal(
      fixture,
      renewLease(absent, lease, { ...RENEWAL, ttlMs: 0 }),
      "invalid_input",
      "lease_ttl_ms",
    );
    await expectRefusal(
      fixture,
      renewLease(absent, lease, { ...RENEWAL, graceMs: Number.NaN }),
      "invalid_input",
      "history_grace_ms",
    );
    await expectRefusal(fixture, renewLease(absent, lease, RENEWAL), "execution_not_found");
    const nothing = { ...lease, leaseId: "", epoch: "", attemptId: "" };
    await expectRefusal(fixture, renewLease(target, nothing, RENEWAL), "fence_required");
    await expectRefusal(
      fixture,
      renewLease(target, { ...lease, epoch: "" }, RENEWAL),
      "partial_fence_triple",
    );
    for (const other of [
      { leaseId: "x" },
      { epoch: "9" },
      { attemptId: "x" },
      { attemptIndex: attempt(3) },
    ]) {
      await expectRefusal(fixture, renewLease(target, { ...lease, ...other }, RENEWAL), "stale_lease");
    }
    await fixture.complete(keys, lease);
    await expectRefusal(
      fixture,
      renewLease(target, lease, RENEWAL),
      "execution_not_active",
      "success",
      lease.epoch,
      "terminal",
      lease.attemptId,
    );
  });

  test("ff_renew_lease of a lease that ran out marks it expired, once", async () => {
    const { fixture, keys, lease } = await claimed();
    await letExpire(fixture, keys);
    const renewal = renewLease(fixture.target(keys), lease, RENEWAL);
    expect(await fixture.call(renewal)).toEqual({ kind: "refused", code: "lease_expired", detail: [] });
    expect(await fixture.hash(keys.core)).toMatchObject({
      lifecycle_phase: "active",
      ownership_state: "lease_expired_reclaimable",
      attempt_state: "attempt_interrupted",
      blocking_detail: "lease expired, awaiting reclaim",
      public_state: "active",
    });
    await expectRefusal(fixture, renewal, "lease_expired");
    expect((await eventsOf(fixture, keys)).filter(({ event }) => event === "expired")).toHaveLength(1);
  });

  test("ff_mark_lease_expired_if_due marks a due lease, closes its stream, and keeps its index entries", async () => {
    const { fixture, keys, lease } = await claimed();
    const target = fixture.target(keys);
    await fixture.read("hset", keys.streamMeta(lease.attemptIndex), "stream_id", "s");
    const mark = () => fixture.call(markLeaseExpiredIfDue(target));
    expect(await mark()).toMatchObject({ status: "ALREADY_SATISFIED", fields: ["not_yet_expired"] });
    await letExpire(fixture, keys);
    expect(await mark()).toMatchObject({ status: "OK", fields: ["marked_expired"] });
    expect(await fixture.hash(keys.streamMeta(lease.attemptIndex))).toMatchObject({
      closed_reason: "lease_expired",
      closed_at: expect.stringMatching(/^\d{13}$/),
    });
    expect(await fixture.read("zscore", fixture.index.leaseExpiry, keys.id)).not.toBeNull();
    await expectOnlyIn(fixture, keys, "active");
    expect(await mark()).toMatchObject({ status: "ALREADY_SATISFIED", fields: ["already_expired"] });
    expect((await eventsOf(fixture, keys)).at(-1)).toMatchObject({
      event: "expired",
      lease_id: lease.leaseId,
      lease_epoch: lease.epoch,
      worker_instance_id: WORKER.instanceId,
    });
  });

  test("ff_mark_lease_expired_if_due removes the entry of an execution that is gone or not active", async () => {
    const fixture = newFixture();
    const [gone, ended] = [fixture.newExecution(), await fixture.execution()];
    await fixture.finish(ended, "success");
    for (const [keys, reason] of [
      [gone, "execution_not_found"],
      [ended, "not_active"],
    ] as const) {
      await fixture.read("zadd", fixture.index.leaseExpiry, 1, keys.id);
      expect(await fixture.call(markLeaseExpiredIfDue(fixture.target(keys)))).toMatchObject({
        status: "ALREADY_SATISFIED",
        fields: [reason],
      });
      expect(await fixture.read("zscore", fixture.index.leaseExpiry, keys.id)).toBeNull();
    }
  });

  test("ff_revoke_lease takes the lease away; the worker's report is refused afterwards", async () => {
    const { fixture, keys, lease } = await claimed();
    const target = fixture.target(keys);
    const revoke = (leaseId: string) => revokeLease(target, WORKER.instanceId, leaseId, "drain");
    await expectRefusal(fixture, revoke("another"), "stale_lease", lease.leaseId);
    expect(await fixture.done(revoke(lease.leaseId))).toEqual(["revoked", lease.leaseId, lease.epoch]);
    expect(await fixture.hash(keys.core)).toMatchObject({
      lifecycle_phase: "active",
      ownership_state: "lease_revoked",
      attempt_state: "attempt_interrupted",
      lease_revoke_reason: "drain",
      blocking_detail: "lease revoked: drain",
    });
    expect(await fixture.read("exists", keys.leaseCurrent)).toBe(0);
    expect(await fixture.read("zscore", fixture.index.leaseExpiry, keys.id)).toBeNull();
    expect(await fixture.read("sismember", fixture.index.workerLeases(WORKER.instanceId), keys.id)).toBe(0);
    await expectOnlyIn(fixture, keys, "active");
    await expectRefusal(fixture, renewLease(target, lease, RENEWAL), "lease_revoked");
    await expectRefusal(fixture, completeExecution(target, WORKER, lease, "late"), "lease_revoked");
    expect(await fixture.call(revoke(""))).toMatchObject({
      status: "ALREADY_SATISFIED",
      fields: ["already_revoked"],
    });
  });

  test("ff_reclaim_execution gives an expired execution to another worker, as a new attempt", async () => {
    const { fixture, keys, lease } = await expired();
    const target = fixture.target(keys);
    // The interrupted attempt had 10 s from its start.
    const startedAt = Number(await fixture.read("hget", keys.attempt(attempt(0)), "started_at"));
    await fixture.read("zadd", fixture.index.attemptTimeout, startedAt + 10_000, keys.id);
    await grantTo(fixture, keys, OTHER);
    const from = await serverTime(fixture);
    const [leaseId, epoch, expiresAt = "", attemptId, index, type] = await fixture.done(
      reclaimExecution(target, OTHER, RECLAIM),
    );
    expect([leaseId, epoch, attemptId, index, type]).toEqual([
      "lease-2",
      String(Number(lease.epoch) + 1),
      "attempt-2",
      "1",
      "reclaim",
    ]);
    expectTimeIn(expiresAt, from + TTL_MS, (await serverTime(fixture)) + TTL_MS);
    expect(await fixture.hash(keys.core)).toMatchObject({
      lifecycle_phase: "active",
      ownership_state: "leased",
      attempt_state: "running_attempt",
      lease_reclaim_count: "1",
      total_attempt_count: "2",
      current_worker_instance_id: OTHER.instanceId,
    });
    expect(await fixture.hash(keys.attempt(attempt(0)))).toMatchObject({
      attempt_state: "interrupted_reclaimed",
      failure_reason: "lease_lease_expired_reclaimable",
    });
    expect(await fixture.hash(keys.attempt(attempt(1)))).toMatchObject({
      attempt_type: "reclaim",
      attempt_state: "started",
      previous_attempt_index: "0",
    });
    expect(await fixture.read("exists", keys.claimGrant)).toBe(0);
    expect(await fixture.read("sismember", fixture.index.workerLeases(WORKER.instanceId), keys.id)).toBe(0);
    expect(await fixture.read("sismember", fixture.index.workerLeases(OTHER.instanceId), keys.id)).toBe(1);
    expect(await fixture.read("zscore", fixture.index.leaseExpiry, keys.id)).toBe(expiresAt);
    const timeout = await fixture.read("zscore", fixture.index.attemptTimeout, keys.id);
    expectTimeIn(String(timeout), from + 10_000, (await serverTime(fixture)) + 10_000);
    // The worker that lost the lease cannot report; the new one can.
    await expectRefusal(fixture, completeExecution(target, WORKER, lease, "late"), "stale_lease");
    const taken = {
      leaseId: "lease-2",
      epoch: epoch ?? "",
      attemptId: "attempt-2",
      attemptIndex: attempt(1),
    };
    expect(await fixture.done(completeExecution(target, OTHER, taken, "done"))).toEqual(["completed"]);
  });

  test("ff_issue_reclaim_grant grants only what was lost, to a worker with the capabilities, once", async () => {
    const live = await claimed();
    await expectRefusal(
      live.fixture,
      issueReclaimGrant(live.fixture.target(live.keys), OTHER, 5_000),
      "execution_not_reclaimable",
      "active",
      "leased",
    );
    const { fixture, keys } = await expired();
    const target = fixture.target(keys);
    await expectRefusal(fixture, issueReclaimGrant(target, OTHER, 0), "invalid_input", "grant_ttl_ms");
    const absent = fixture.target(fixture.newExecution());
    await expectRefusal(fixture, issueReclaimGrant(absent, OTHER, 1), "execution_not_found");
    await fixture.read("hset", keys.core, "required_capabilities", "gpu");
    expect(await fixture.call(issueReclaimGrant(target, OTHER, 5_000))).toEqual({
      kind: "refused",
      code: "capability_mismatch",
      detail: ["gpu"],
    });
    await fixture.read("hset", keys.core, "required_capabilities", "");
    expect(await fixture.done(issueReclaimGrant(target, OTHER, 5_000))).toEqual([keys.id]);
    expect(Number(await fixture.read("pttl", keys.claimGrant))).toBeGreaterThan(0);
    await expectRefusal(fixture, issueReclaimGrant(target, WORKER, 5_000), "grant_already_exists");
  });

  test("ff_reclaim_execution refuses a live lease, a missing grant, and another worker's grant", async () => {
    const live = await claimed();
    await expectRefusal(
      live.fixture,
      reclaimExecution(live.fixture.target(live.keys), OTHER, RECLAIM),
      "execution_not_reclaimable",
      "active",
      "leased",
    );
    const { fixture, keys } = await expired();
    const target = fixture.target(keys);
    await expectRefusal(
      fixture,
      reclaimExecution(target, OTHER, { ...RECLAIM, leaseTtlMs: 0 }),
      "invalid_input",
      "lease_ttl_ms",
    );
    await expectRefusal(fixture, reclaimExecution(target, OTHER, RECLAIM), "invalid_claim_grant");
    await grantTo(fixture, keys, WORKER);
    await expectRefusal(fixture, reclaimExecution(target, OTHER, RECLAIM), "invalid_claim_grant");
    await expectRefusal(
      fixture,
      reclaimExecution(fixture.target(fixture.newExecution()), OTHER, RECLAIM),
      "execution_not_found",
    );
  });

  test("ff_reclaim_execution at the limit fails the execution without a grant, and publishes it", async () => {
    const { fixture, keys } = await expired();
    using feed = await subscribeToCompletions(deployment, fixture.flow.id);
    await fixture.read("hset", keys.core, "lease_reclaim_count", "2");
    const reclaim = reclaimExecution(fixture.target(keys), OTHER, { ...RECLAIM, limit: 2 });
    expect(await fixture.call(reclaim)).toEqual({
      kind: "refused",
      code: "max_retries_exhausted",
      detail: ["2"],
    });
    expect(await fixture.hash(keys.core)).toMatchObject({
      lifecycle_phase: "terminal",
      terminal_outcome: "failed",
      failure_reason: "max_reclaims_exceeded",
    });
    await expectOnlyIn(fixture, keys, "terminal");
    expect(await fixture.read("zscore", fixture.index.leaseExpiry, keys.id)).toBeNull();
    expect(await fixture.read("exists", keys.leaseCurrent)).toBe(0);
    expect(JSON.parse(await feed.next())).toEqual({
      execution_id: keys.id,
      flow_id: fixture.flow.id,
      outcome: "failed",
    });
  });

  test("the policy's max_reclaim_count goes before the caller's limit; a policy that is no JSON has none", async () => {
    for (const [policy, limit, isRefused] of [
      ['{"max_reclaim_count":1}', 5, true],
      ['{"max_reclaim_count":9}', 1, false],
      ['{"max_reclaim_count":null}', 1, true],
      ["not JSON", 5, false],
    ] as const) {
      const { fixture, keys } = await expired();
      await fixture.read("set", keys.policy, policy);
      await fixture.read("hset", keys.core, "lease_reclaim_count", "1");
      await grantTo(fixture, keys, OTHER);
      const reply = await fixture.call(reclaimExecution(fixture.target(keys), OTHER, { ...RECLAIM, limit }));
      expect(reply.kind, policy).toBe(isRefused ? "refused" : "done");
    }
  });

  test("ff_update_progress writes the progress of the lease's holder only", async () => {
    const { fixture, keys, lease } = await claimed();
    const target = fixture.target(keys);
    await fixture.done(updateProgress(target, lease, 40, "halfway"));
    await fixture.done(updateProgress(target, lease, 41, ""));
    const core = await fixture.hash(keys.core);
    expect(core).toMatchObject({ progress_pct: "41", progress_message: "halfway" });
    expect(field(core, "progress_updated_at")).toMatch(/^\d{13}$/);
    await expectRefusal(fixture, updateProgress(target, lease, 101, ""), "invalid_input", "percentage");
    await expectRefusal(fixture, updateProgress(target, { ...lease, epoch: "9" }, 50, ""), "stale_lease");
    await letExpire(fixture, keys);
    await expectRefusal(fixture, updateProgress(target, lease, 50, ""), "lease_expired");
    await fixture.read("hset", keys.core, "lease_expires_at", String((await serverTime(fixture)) + TTL_MS));
    await fixture.complete(keys, lease);
    await expectRefusal(
      fixture,
      updateProgress(target, lease, 50, ""),
      "execution_not_active",
      "success",
      lease.epoch,
    );
  });

  test("an execution whose lease ran out cannot be claimed as if it were new", async () => {
    const { fixture, keys } = await expired();
    await expectRefusal(
      fixture,
      issueClaimGrant(fixture.target(keys), OTHER, 5_000),
      "execution_not_eligible",
      "active",
      "not_applicable",
    );
  });
});
