import { describe, expect, test } from "vitest";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { cancelExecution, completeExecution, failExecution, type Lease } from "#shared/contract/ownership.ts";
import { subscribeToCompletions } from "#test/support/completions.ts";
import {
  expectOnlyIn,
  expectRefusal,
  expectTimeIn,
  fixturesOn,
  serverTime,
} from "#test/support/expectations.ts";
import { attempt, type FlowFixture, field, WORKER } from "#test/support/flow-fixture.ts";
import { ended, RETRYING } from "#test/support/states.ts";
import { DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

const NO_LEASE = {
  current_lease_id: "",
  current_worker_id: "",
  current_worker_instance_id: "",
  lease_expires_at: "",
};
const FAILURE = { reason: "it broke", category: "test", retryPolicyJson: "" };

const ENDS = [
  [
    "ff_complete_execution",
    (fixture: FlowFixture, keys: ExecKeys, lease: Lease) =>
      completeExecution(fixture.target(keys), WORKER, lease, "result"),
  ],
  [
    "ff_fail_execution",
    (fixture: FlowFixture, keys: ExecKeys, lease: Lease) =>
      failExecution(fixture.target(keys), WORKER, lease, FAILURE),
  ],
] as const;

/** Expects that no index or record refers to the lease of an execution. */
async function expectReleased(fixture: FlowFixture, keys: ExecKeys): Promise<void> {
  expect(await fixture.hash(keys.core)).toMatchObject(NO_LEASE);
  expect(await fixture.read("exists", keys.leaseCurrent)).toBe(0);
  expect(await fixture.read("zscore", fixture.index.leaseExpiry, keys.id)).toBeNull();
  expect(await fixture.read("zscore", fixture.index.attemptTimeout, keys.id)).toBeNull();
  expect(await fixture.read("sismember", fixture.index.workerLeases(WORKER.instanceId), keys.id)).toBe(0);
}

/** The newest event of the lease history. */
async function lastEvent(fixture: FlowFixture, keys: ExecKeys): Promise<Record<string, string>> {
  const [[, fields]] = (await fixture.read("xrevrange", keys.leaseHistory, "+", "-", "COUNT", 1)) as [
    [string, string[]],
  ];
  return Object.fromEntries(
    fields.flatMap((name, at) => (at % 2 === 0 ? [[name, fields[at + 1] ?? ""]] : [])),
  );
}

function eventOf(fixture: FlowFixture, keys: ExecKeys, outcome: string): string {
  return `{"execution_id":"${keys.id}","flow_id":"${fixture.flow.id}","outcome":"${outcome}"}`;
}

describe.each(DEPLOYMENTS_OF_BOTH)(
  "completing, failing and cancelling ($name, $edition KEYS)",
  (deployment) => {
    const newFixture = fixturesOn(deployment);

    test("ff_complete_execution ends the execution with outcome success, and publishes it", async () => {
      const fixture = newFixture();
      const keys = await fixture.member({ deadlineAt: 1_999_999_999_999 });
      using feed = await subscribeToCompletions(deployment, fixture.flow.id);
      const lease = await fixture.claim(keys);
      await fixture.read("hset", keys.streamMeta(attempt(0)), "opened_at", "1");
      const from = await serverTime(fixture);
      const complete = completeExecution(fixture.target(keys), WORKER, lease, "result");
      expect(await fixture.done(complete)).toEqual(["completed"]);
      const core = await fixture.hash(keys.core);
      expect(core).toMatchObject({ ...ended("success"), attempt_state: "attempt_terminal" });
      expectTimeIn(field(core, "completed_at"), from, await serverTime(fixture));
      await expectReleased(fixture, keys);
      await expectOnlyIn(fixture, keys, "terminal", Number(field(core, "completed_at")));
      expect(await fixture.read("get", keys.result)).toBe("result");
      expect(await fixture.read("zscore", fixture.index.executionDeadline, keys.id)).toBeNull();
      const attemptRecord = await fixture.hash(keys.attempt(attempt(0)));
      expect(attemptRecord).toMatchObject({ attempt_state: "ended_success" });
      const stream = await fixture.hash(keys.streamMeta(attempt(0)));
      expect(field(stream, "closed_at")).toBe(field(core, "completed_at"));
      expect(await feed.next()).toBe(eventOf(fixture, keys, "success"));
      await expectRefusal(fixture, complete, "execution_not_active", "success", "1");
    });

    test("ff_complete_execution writes no empty result, and publishes nothing outside a flow", async () => {
      const fixture = newFixture();
      const [solo, member] = [await fixture.execution(), await fixture.member()];
      using feed = await subscribeToCompletions(deployment, `{fp:${fixture.flow.partition}}`);
      await fixture.finish(solo, "success");
      await fixture.finish(member, "success");
      expect(await fixture.read("exists", solo.result)).toBe(0);
      expect(await feed.next()).toBe(eventOf(fixture, member, "success"));
    });

    test("ff_fail_execution without a retry ends the execution with outcome failed, and publishes it", async () => {
      const fixture = newFixture();
      const keys = await fixture.member();
      using feed = await subscribeToCompletions(deployment, fixture.flow.id);
      expect(await fixture.fail(keys, await fixture.claim(keys))).toEqual(["terminal_failed"]);
      const core = await fixture.hash(keys.core);
      expect(core).toMatchObject({
        ...ended("failed"),
        attempt_state: "attempt_terminal",
        failure_reason: "it broke",
      });
      await expectReleased(fixture, keys);
      await expectOnlyIn(fixture, keys, "terminal", Number(field(core, "completed_at")));
      expect(await fixture.hash(keys.attempt(attempt(0)))).toMatchObject({
        attempt_state: "ended_failure",
        failure_reason: "it broke",
        failure_category: "test",
      });
      expect(await feed.next()).toBe(eventOf(fixture, keys, "failed"));
    });

    test.each([
      [{ max_retries: 1 }, 0, 1_000],
      [{ max_retries: 3, backoff: { type: "fixed", delay_ms: 250 } }, 2, 250],
      [{ max_retries: 9, backoff: { type: "exponential", initial_delay_ms: 100, multiplier: 3 } }, 0, 100],
      [{ max_retries: 9, backoff: { type: "exponential", initial_delay_ms: 100, multiplier: 3 } }, 2, 900],
      [{ max_retries: 9, backoff: { type: "exponential", max_delay_ms: 3_500 } }, 2, 3_500],
      [{ max_retries: 5_000, backoff: { type: "exponential" } }, 4_000, 60_000],
    ])("%j: retry %d waits %d ms", async (policy, retriesBefore, delayMs) => {
      const fixture = newFixture();
      const keys = await fixture.member();
      await fixture.read("hset", keys.core, "retry_count", retriesBefore);
      await fixture.read("xadd", keys.leaseHistory, "*", "event", "replay_initiated");
      const lease = await fixture.claim(keys);
      const from = await serverTime(fixture);
      const [verdict, delayUntil] = await fixture.fail(keys, lease, JSON.stringify(policy));
      const to = await serverTime(fixture);
      expect(verdict).toBe("retry_scheduled");
      expectTimeIn(delayUntil, from + delayMs, to + delayMs);
      expect(await fixture.hash(keys.core)).toMatchObject({
        ...RETRYING,
        attempt_state: "pending_retry_attempt",
        retry_count: String(retriesBefore + 1),
        delay_until: delayUntil,
        completed_at: "",
        failure_reason: "it broke",
        pending_retry_reason: "it broke",
        pending_previous_attempt_index: "0",
        current_attempt_id: "",
      });
      expect(await lastEvent(fixture, keys)).toEqual({
        event: "released",
        lease_id: lease.leaseId,
        lease_epoch: "1",
        attempt_index: "0",
        reason: "failed_retry_scheduled",
        ts: String(Number(delayUntil) - delayMs),
      });
      await expectReleased(fixture, keys);
      await expectOnlyIn(fixture, keys, "delayed", Number(delayUntil));
    });

    test("ff_fail_execution ends the execution once its retries are used up", async () => {
      const fixture = newFixture();
      const keys = await fixture.execution();
      await fixture.read("hset", keys.core, "retry_count", 2);
      expect(await fixture.fail(keys, await fixture.claim(keys), '{"max_retries":2}')).toEqual([
        "terminal_failed",
      ]);
    });

    test.each(["{", "5", '{"max_retries":"2"}', '{"max_retries":1,"backoff":{"type":"random"}}'])(
      "ff_fail_execution accepts the malformed retry policy %s, and does not retry",
      async (retryPolicyJson) => {
        const fixture = newFixture();
        const keys = await fixture.execution();
        expect(await fixture.fail(keys, await fixture.claim(keys), retryPolicyJson)).toEqual([
          "terminal_failed",
        ]);
      },
    );

    test.each(ENDS)("%s refuses in the order of the contract", async (_name, endOf) => {
      const fixture = newFixture();
      const staleLease: Lease = { leaseId: "x", epoch: "9", attemptId: "x", attemptIndex: attempt(0) };
      await expectRefusal(fixture, endOf(fixture, fixture.newExecution(), staleLease), "execution_not_found");
      const keys = await fixture.execution();
      await expectRefusal(fixture, endOf(fixture, keys, staleLease), "execution_not_active", "none", "0");
      const lease = await fixture.claim(keys);
      const set = (...fields: string[]) => fixture.read("hset", keys.core, ...fields);
      const expiresAt = String(field(await fixture.hash(keys.core), "lease_expires_at"));
      await set("ownership_state", "lease_revoked", "lease_expires_at", "1");
      await expectRefusal(fixture, endOf(fixture, keys, staleLease), "lease_revoked");
      await set("ownership_state", "leased");
      await expectRefusal(fixture, endOf(fixture, keys, staleLease), "lease_expired");
      await set("ownership_state", "lease_expired_reclaimable", "lease_expires_at", expiresAt);
      await expectRefusal(fixture, endOf(fixture, keys, staleLease), "lease_expired");
      await set("ownership_state", "leased");
      for (const stale of [{ leaseId: "x" }, { epoch: "0" }, { attemptId: "x" }]) {
        await expectRefusal(fixture, endOf(fixture, keys, { ...lease, ...stale }), "stale_lease");
      }
      await fixture.done(endOf(fixture, keys, lease));
    });

    test.each(ENDS)("%s ignores an extra argument", async (_name, endOf) => {
      const fixture = newFixture();
      const keys = await fixture.execution();
      const command = endOf(fixture, keys, await fixture.claim(keys));
      await fixture.done({ ...command, args: [...command.args, "one more"] });
      expect(await fixture.hash(keys.core)).toMatchObject({ lifecycle_phase: "terminal" });
    });

    test.each(["runnable", "active", "delayed", "blocked"])(
      "ff_cancel_execution cancels an execution in state %s",
      async (state) => {
        const fixture = newFixture();
        const keys = await fixture.member(
          state === "delayed" ? { delayUntil: (await serverTime(fixture)) + 60_000 } : {},
        );
        using feed = await subscribeToCompletions(deployment, fixture.flow.id);
        await fixture.read("xadd", keys.leaseHistory, "*", "event", "replay_initiated");
        if (state === "active") await fixture.claim(keys);
        if (state === "blocked") await fixture.edge(await fixture.member(), keys);
        const phase = state === "active" ? "active" : "runnable";
        expect(await fixture.cancel(keys)).toEqual(["cancelled", phase]);
        const core = await fixture.hash(keys.core);
        expect(core).toMatchObject({
          ...ended("cancelled"),
          attempt_state: state === "active" ? "attempt_terminal" : "none",
          cancellation_reason: "not wanted",
          cancelled_by: "operator",
        });
        await expectReleased(fixture, keys);
        await expectOnlyIn(fixture, keys, "terminal", Number(field(core, "completed_at")));
        if (state === "active") {
          const record = await fixture.hash(keys.attempt(attempt(0)));
          expect(record).toMatchObject({
            attempt_state: "ended_cancelled",
            failure_reason: "cancelled: not wanted",
          });
          expect(await lastEvent(fixture, keys)).toMatchObject({ event: "released", reason: "cancelled" });
        }
        expect(await feed.next()).toBe(eventOf(fixture, keys, "cancelled"));
      },
    );

    test("ff_cancel_execution of an active execution compares the lease that the caller names", async () => {
      const fixture = newFixture();
      const keys = await fixture.member();
      const lease = await fixture.claim(keys);
      const cancel = (source: string, named?: Lease) =>
        cancelExecution(fixture.target(keys), WORKER, attempt(0), {
          reason: "",
          source,
          ...(named === undefined ? {} : { lease: named }),
        });
      for (const other of [
        { ...lease, leaseId: "another owner's" },
        { ...lease, epoch: "0" },
      ]) {
        await expectRefusal(fixture, cancel("lease_holder", other), "stale_lease");
        await expectRefusal(fixture, cancel("", other), "stale_lease");
      }
      await fixture.read("hset", keys.core, "ownership_state", "lease_revoked");
      await expectRefusal(fixture, cancel("lease_holder", lease), "lease_revoked");
      await expectRefusal(fixture, cancel("lease_holder"), "lease_revoked");
      await fixture.read("hset", keys.core, "ownership_state", "leased", "lease_expires_at", "1");
      // Expiry is not checked.
      expect(await fixture.done(cancel("lease_holder", lease))).toEqual(["cancelled", "active"]);
      await expectReleased(fixture, keys);
    });

    test("ff_cancel_execution ignores the lease of an operator, and of an execution that is not active", async () => {
      const fixture = newFixture();
      const [active, waiting] = [await fixture.member(), await fixture.member()];
      const lease = { ...(await fixture.claim(active)), leaseId: "another owner's" };
      const cancel = (keys: ExecKeys, source: string) =>
        fixture.done(
          cancelExecution(fixture.target(keys), WORKER, attempt(0), { reason: "", source, lease }),
        );
      expect(await cancel(active, "operator_override")).toEqual(["cancelled", "active"]);
      expect(await cancel(waiting, "")).toEqual(["cancelled", "runnable"]);
      expect(field(await fixture.hash(waiting.core), "cancelled_by")).toBe(waiting.id);
    });

    test("ff_cancel_execution refuses terminal and missing executions, and does not publish for source flow_cascade", async () => {
      const fixture = newFixture();
      const [first, second] = [await fixture.member(), await fixture.member()];
      using feed = await subscribeToCompletions(deployment, fixture.flow.id);
      await fixture.cancel(first, "flow_cascade");
      await fixture.cancel(second, "operator");
      expect(await feed.next()).toBe(eventOf(fixture, second, "cancelled"));
      const cancel = (keys: ExecKeys) =>
        cancelExecution(fixture.target(keys), WORKER, attempt(0), { reason: "", source: "" });
      await expectRefusal(fixture, cancel(first), "execution_not_active", "cancelled", "0");
      await expectRefusal(fixture, cancel(fixture.newExecution()), "execution_not_found");
    });
  },
);
