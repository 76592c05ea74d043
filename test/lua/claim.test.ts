import { describe, expect, test } from "vitest";
import {
  claimExecution,
  issueClaimGrant,
  issueGrantAndClaim,
  type WorkerIdentity,
} from "#shared/contract/ownership.ts";
import {
  expectOnlyIn,
  expectRefusal,
  expectTimeIn,
  fixturesOn,
  serverTime,
} from "#test/support/expectations.ts";
import { attempt, field, WORKER } from "#test/support/flow-fixture.ts";
import { ACTIVE } from "#test/support/states.ts";
import { DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

const TERMS = { leaseId: "lease", attemptId: "attempt", leaseTtlMs: 30_000, renewBeforeMs: 10_000 };
const OTHER: WorkerIdentity = { workerId: "other", instanceId: "other-1" };

describe.each(DEPLOYMENTS_OF_BOTH)("claims ($name, $edition KEYS)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  test("ff_issue_claim_grant writes a grant with an expiry, and does not change the eligible zset", async () => {
    const fixture = newFixture();
    const keys = await fixture.execution();
    const from = await serverTime(fixture);
    expect(await fixture.done(issueClaimGrant(fixture.target(keys), WORKER, 5_000))).toEqual([keys.id]);
    const grant = await fixture.hash(keys.claimGrant);
    expect(grant).toMatchObject({
      worker_id: "worker",
      worker_instance_id: "worker-1",
      lane_id: fixture.lane,
    });
    expectTimeIn(field(grant, "grant_expires_at"), from + 5_000, (await serverTime(fixture)) + 5_000);
    expect(String(await fixture.read("pexpiretime", keys.claimGrant))).toBe(field(grant, "grant_expires_at"));
    await expectOnlyIn(fixture, keys, "eligible");
  });

  test("ff_issue_claim_grant refuses in the order of the contract", async () => {
    const fixture = newFixture();
    const absent = fixture.target(fixture.newExecution());
    await expectRefusal(fixture, issueClaimGrant(absent, WORKER, 1), "execution_not_found");
    const keys = await fixture.execution();
    const grant = issueClaimGrant(fixture.target(keys), WORKER, 60_000);
    await expectRefusal(
      fixture,
      issueClaimGrant(fixture.target(keys), WORKER, 0),
      "invalid_input",
      "grant_ttl_ms",
    );
    await fixture.read("hset", keys.core, "eligibility_state", "blocked_by_dependencies");
    const blocked = ["runnable", "blocked_by_dependencies"];
    await expectRefusal(fixture, grant, "execution_not_eligible", ...blocked);
    await fixture.read("hset", keys.core, "eligibility_state", "eligible_now");
    await fixture.read("zrem", fixture.index.lane(fixture.lane).eligible, keys.id);
    await expectRefusal(fixture, grant, "execution_not_in_eligible_set");
    await fixture.read("zadd", fixture.index.lane(fixture.lane).eligible, 1, keys.id);
    await fixture.done(grant);
    await fixture.read("zrem", fixture.index.lane(fixture.lane).eligible, keys.id);
    await expectRefusal(fixture, grant, "grant_already_exists");
  });

  test("ff_claim_execution writes the lease, the attempt, the record and the indexes", async () => {
    const fixture = newFixture();
    const keys = await fixture.execution();
    await fixture.done(issueClaimGrant(fixture.target(keys), WORKER, 60_000));
    const from = await serverTime(fixture);
    const reply = await fixture.done(claimExecution(fixture.target(keys), WORKER, TERMS));
    const to = await serverTime(fixture);
    const [, , expiresAt = ""] = reply;
    expect(reply).toEqual(["lease", "1", expiresAt, "attempt", "0", "initial"]);
    expectTimeIn(expiresAt, from + 30_000, to + 30_000);
    const acquiredAt = String(Number(expiresAt) - 30_000);
    const renewBy = String(Number(acquiredAt) + 10_000);

    expect(await fixture.hash(keys.core)).toMatchObject({
      ...ACTIVE,
      attempt_state: "running_attempt",
      current_attempt_index: "0",
      current_attempt_id: "attempt",
      total_attempt_count: "1",
      current_lease_id: "lease",
      current_lease_epoch: "1",
      current_worker_id: "worker",
      current_worker_instance_id: "worker-1",
      lease_acquired_at: acquiredAt,
      lease_expires_at: expiresAt,
      lease_renewal_deadline: renewBy,
      started_at: acquiredAt,
      last_transition_at: acquiredAt,
      last_mutation_at: acquiredAt,
    });
    expect(await fixture.hash(keys.attempt(attempt(0)))).toMatchObject({
      attempt_id: "attempt",
      attempt_index: "0",
      attempt_type: "initial",
      attempt_state: "started",
      started_at: acquiredAt,
    });
    expect(await fixture.hash(keys.leaseCurrent)).toMatchObject({
      lease_id: "lease",
      expires_at: expiresAt,
      renewal_deadline: renewBy,
    });
    expect(await fixture.read("exists", keys.claimGrant)).toBe(0);
    expect(await fixture.read("zrange", keys.attempts, 0, -1)).toEqual(["0"]);
    expect(await fixture.read("exists", keys.leaseHistory)).toBe(0);
    expect(await fixture.read("zscore", fixture.index.leaseExpiry, keys.id)).toBe(expiresAt);
    expect(await fixture.read("zscore", fixture.index.laneClaims, fixture.lane)).toBe(acquiredAt);
    expect(await fixture.read("smembers", fixture.index.workerLeases("worker-1"))).toEqual([keys.id]);
    await expectOnlyIn(fixture, keys, "active", Number(expiresAt));
  });

  test.each([
    ["", "", null, null],
    ["0", "0", null, null],
    ["5000", "1999999999999", 5_000, "1999999999999"],
  ])(
    "ff_claim_execution with timeout %j and deadline %j",
    async (timeout, deadline, timeoutAfter, deadlineAt) => {
      const fixture = newFixture();
      const keys = await fixture.execution();
      await fixture.done(issueClaimGrant(fixture.target(keys), WORKER, 60_000));
      const claim = claimExecution(fixture.target(keys), WORKER, TERMS);
      const args = [...claim.args.slice(0, -2), timeout, deadline];
      const [, , expiresAt] = await fixture.done({ ...claim, args });
      const claimedAt = Number(expiresAt) - TERMS.leaseTtlMs;
      expect(await fixture.read("zscore", fixture.index.attemptTimeout, keys.id)).toBe(
        timeoutAfter === null ? null : String(claimedAt + timeoutAfter),
      );
      expect(await fixture.read("zscore", fixture.index.executionDeadline, keys.id)).toBe(deadlineAt);
    },
  );

  test("a claim passes its attempt timeout, and without one there is no timeout", async () => {
    const fixture = newFixture();
    for (const attemptTimeoutMs of [undefined, 7_000]) {
      const keys = await fixture.execution();
      await fixture.done(issueClaimGrant(fixture.target(keys), WORKER, 60_000));
      const terms = attemptTimeoutMs === undefined ? TERMS : { ...TERMS, attemptTimeoutMs };
      const [, , expiresAt] = await fixture.done(claimExecution(fixture.target(keys), WORKER, terms));
      const claimedAt = Number(expiresAt) - TERMS.leaseTtlMs;
      const expected = attemptTimeoutMs === undefined ? null : String(claimedAt + attemptTimeoutMs);
      expect(await fixture.read("zscore", fixture.index.attemptTimeout, keys.id)).toBe(expected);
    }
  });

  test("the lease history keeps about 1,000 events", async () => {
    const fixture = newFixture();
    const keys = await fixture.execution();
    const event = ["*", "event", "old"];
    await Promise.all(Array.from({ length: 1_500 }, () => fixture.read("xadd", keys.leaseHistory, ...event)));
    await fixture.claim(keys);
    // Streams are trimmed by whole nodes of 100 entries.
    expect(await fixture.read("xlen", keys.leaseHistory)).toBeLessThan(1_100);
  });

  test("the next attempt has its own record, the right type and a higher epoch", async () => {
    const fixture = newFixture();
    const keys = await fixture.execution();
    await fixture.claim(keys);
    for (const [index, [state, type]] of [
      ["pending_retry_attempt", "retry"],
      ["pending_replay_attempt", "replay"],
    ].entries()) {
      const core = ["lifecycle_phase", "runnable", "ownership_state", "unowned", "eligibility_state"];
      await fixture.read("hset", keys.core, ...core, "eligible_now", "attempt_state", String(state));
      await fixture.read("zadd", fixture.index.lane(fixture.lane).eligible, 1, keys.id);
      const lease = await fixture.claim(keys);
      expect(lease).toMatchObject({ epoch: String(index + 2), attemptIndex: index + 1 });
      expect(await fixture.hash(keys.attempt(attempt(index + 1)))).toMatchObject({
        attempt_index: String(index + 1),
        attempt_type: type,
        attempt_id: lease.attemptId,
      });
    }
    expect(field(await fixture.hash(keys.attempt(attempt(0))), "attempt_type")).toBe("initial");
  });

  test("ff_claim_execution refuses in the order of the contract", async () => {
    const fixture = newFixture();
    const absent = claimExecution(fixture.target(fixture.newExecution()), WORKER, TERMS);
    await expectRefusal(fixture, absent, "execution_not_found");
    const keys = await fixture.execution();
    const claim = claimExecution(fixture.target(keys), WORKER, TERMS);
    const set = (...fields: string[]) => fixture.read("hset", keys.core, ...fields);
    await set("lifecycle_phase", "terminal", "ownership_state", "leased", "attempt_state", "running_attempt");
    await expectRefusal(fixture, claim, "execution_not_leaseable", "terminal", "eligible_now");
    await set("lifecycle_phase", "runnable", "eligibility_state", "blocked_by_dependencies");
    await expectRefusal(fixture, claim, "lease_conflict");
    await set("ownership_state", "unowned");
    await expectRefusal(fixture, claim, "execution_not_leaseable", "runnable", "blocked_by_dependencies");
    await set("eligibility_state", "eligible_now");
    await expectRefusal(fixture, claim, "active_attempt_exists");
    await set("attempt_state", "attempt_interrupted");
    await expectRefusal(fixture, claim, "use_claim_resumed_execution");
    await set("attempt_state", "pending_first_attempt");
    await expectRefusal(fixture, claim, "invalid_claim_grant");
    await fixture.done(issueClaimGrant(fixture.target(keys), OTHER, 60_000));
    await expectRefusal(fixture, claim, "invalid_claim_grant");
    await fixture.read("hset", keys.claimGrant, "worker_id", "worker", "worker_instance_id", "worker-1");
    await fixture.read("hset", keys.claimGrant, "grant_expires_at", "1");
    await expectRefusal(fixture, claim, "claim_grant_expired");
    const noTtl = claimExecution(fixture.target(keys), WORKER, { ...TERMS, leaseTtlMs: 0 });
    await expectRefusal(fixture, noTtl, "invalid_input", "lease_ttl_ms");
  });

  test("ff_issue_grant_and_claim leaves what a grant and a claim leave, and replies alike", async () => {
    const outcomes: unknown[] = [];
    for (const inOneCall of [false, true]) {
      const fixture = newFixture();
      const keys = await fixture.execution({ priority: 2 });
      const terms = { ...TERMS, attemptTimeoutMs: 7_000 };
      const target = fixture.target(keys);
      if (!inOneCall) await fixture.done(issueClaimGrant(target, WORKER, 60_000));
      const claim = inOneCall ? issueGrantAndClaim : claimExecution;
      const reply = await fixture.done(claim(target, WORKER, terms));
      const left = JSON.stringify([reply, await fixture.snapshot()]);
      outcomes.push(
        left.replaceAll(/\{fp:\d+\}|"partition_id":"\d+"|[0-9a-f]{8}-[0-9a-f-]{27}|\b\d{13}\b/g, "…"),
      );
    }
    expect(outcomes[1]).toEqual(outcomes[0]);
  });

  test("ff_issue_grant_and_claim refuses what a grant or a claim would refuse, in that order", async () => {
    const fixture = newFixture();
    const absent = issueGrantAndClaim(fixture.target(fixture.newExecution()), WORKER, TERMS);
    await expectRefusal(fixture, absent, "execution_not_found");
    const keys = await fixture.execution();
    const target = fixture.target(keys);
    const claim = issueGrantAndClaim(target, WORKER, TERMS);
    const noTtl = issueGrantAndClaim(target, WORKER, { ...TERMS, leaseTtlMs: 0 });
    await expectRefusal(fixture, noTtl, "invalid_input", "lease_ttl_ms");
    const set = (...fields: string[]) => fixture.read("hset", keys.core, ...fields);
    await set("eligibility_state", "blocked_by_dependencies", "attempt_state", "attempt_interrupted");
    await fixture.done(issueClaimGrant(fixture.target(await fixture.execution()), OTHER, 60_000));
    await expectRefusal(fixture, claim, "execution_not_eligible", "runnable", "blocked_by_dependencies");
    await set("eligibility_state", "eligible_now", "required_capabilities", "gpu");
    await fixture.done(issueClaimGrant(target, { ...OTHER, capabilities: ["gpu"] }, 60_000));
    await expectRefusal(fixture, claim, "grant_already_exists");
    await fixture.read("del", keys.claimGrant);
    const { eligible } = fixture.index.lane(fixture.lane);
    await fixture.read("zrem", eligible, keys.id);
    await expectRefusal(fixture, claim, "execution_not_in_eligible_set");
    await fixture.read("zadd", eligible, 1, keys.id);
    expect(await fixture.call(claim)).toEqual({
      kind: "refused",
      code: "capability_mismatch",
      detail: ["gpu"],
    });
    await set("required_capabilities", "");
    await expectRefusal(fixture, claim, "use_claim_resumed_execution");
    await set("attempt_state", "running_attempt");
    await expectRefusal(fixture, claim, "active_attempt_exists");
    await set("attempt_state", "pending_first_attempt");
    await fixture.done(claim);
    const again = issueGrantAndClaim(target, OTHER, { ...TERMS, leaseId: "lease-2" });
    await expectRefusal(fixture, again, "execution_not_eligible", "active", "not_applicable");
  });
});
