import { describe, expect, test } from "vitest";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { cancelExecution, completeExecution, failExecution, type Lease } from "#shared/contract/ownership.ts";
import { completionsOf } from "#test/support/completions.ts";
import {
  expectOnlyIn,
  expectRefusal,
  expectTimeIn,
  scenesOn,
  serverTime,
} from "#test/support/expectations.ts";
import { attempt, field, type Scene, WORKER } from "#test/support/scene.ts";
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
    (scene: Scene, keys: ExecKeys, lease: Lease) =>
      completeExecution(scene.target(keys), WORKER, lease, "result"),
  ],
  [
    "ff_fail_execution",
    (scene: Scene, keys: ExecKeys, lease: Lease) => failExecution(scene.target(keys), WORKER, lease, FAILURE),
  ],
] as const;

/** No index or record names the lease of an execution any more. */
async function expectReleased(scene: Scene, keys: ExecKeys): Promise<void> {
  expect(await scene.hash(keys.core)).toMatchObject(NO_LEASE);
  expect(await scene.read("exists", keys.leaseCurrent)).toBe(0);
  expect(await scene.read("zscore", scene.index.leaseExpiry, keys.id)).toBeNull();
  expect(await scene.read("zscore", scene.index.attemptTimeout, keys.id)).toBeNull();
  expect(await scene.read("sismember", scene.index.workerLeases(WORKER.instanceId), keys.id)).toBe(0);
}

function eventOf(scene: Scene, keys: ExecKeys, outcome: string): string {
  return `{"execution_id":"${keys.id}","flow_id":"${scene.flow.id}","outcome":"${outcome}"}`;
}

describe.each(DEPLOYMENTS_OF_BOTH)("the end of an execution on $name, $edition KEYS", (deployment) => {
  const newScene = scenesOn(deployment);

  test("ff_complete_execution ends it in success and publishes", async () => {
    const scene = newScene();
    const keys = await scene.member({ deadlineAt: 1_999_999_999_999 });
    using feed = await completionsOf(deployment, scene.flow.id);
    const lease = await scene.claim(keys);
    await scene.read("hset", keys.streamMeta(attempt(0)), "opened_at", "1");
    const from = await serverTime(scene);
    const complete = completeExecution(scene.target(keys), WORKER, lease, "result");
    expect(await scene.done(complete)).toEqual(["completed"]);
    const core = await scene.hash(keys.core);
    expect(core).toMatchObject({ ...ended("success"), attempt_state: "attempt_terminal" });
    expectTimeIn(field(core, "completed_at"), from, await serverTime(scene));
    await expectReleased(scene, keys);
    await expectOnlyIn(scene, keys, "terminal", Number(field(core, "completed_at")));
    expect(await scene.read("get", keys.result)).toBe("result");
    expect(await scene.read("zscore", scene.index.executionDeadline, keys.id)).toBeNull();
    const attemptRecord = await scene.hash(keys.attempt(attempt(0)));
    expect(attemptRecord).toMatchObject({ attempt_state: "ended_success" });
    const stream = await scene.hash(keys.streamMeta(attempt(0)));
    expect(field(stream, "closed_at")).toBe(field(core, "completed_at"));
    expect(await feed.next()).toBe(eventOf(scene, keys, "success"));
    await expectRefusal(scene, complete, "execution_not_active", "success", "1");
  });

  test("an empty result is none; an execution in no flow publishes nothing", async () => {
    const scene = newScene();
    const [solo, member] = [await scene.execution(), await scene.member()];
    using feed = await completionsOf(deployment, `{fp:${scene.flow.partition}}`);
    await scene.finish(solo, "success");
    await scene.finish(member, "success");
    expect(await scene.read("exists", solo.result)).toBe(0);
    expect(await feed.next()).toBe(eventOf(scene, member, "success"));
  });

  test("ff_fail_execution without a retry ends it in failure and publishes", async () => {
    const scene = newScene();
    const keys = await scene.member();
    using feed = await completionsOf(deployment, scene.flow.id);
    expect(await scene.fail(keys, await scene.claim(keys))).toEqual(["terminal_failed"]);
    const core = await scene.hash(keys.core);
    expect(core).toMatchObject({
      ...ended("failed"),
      attempt_state: "attempt_terminal",
      failure_reason: "it broke",
    });
    await expectReleased(scene, keys);
    await expectOnlyIn(scene, keys, "terminal", Number(field(core, "completed_at")));
    expect(await scene.hash(keys.attempt(attempt(0)))).toMatchObject({
      attempt_state: "ended_failure",
      failure_reason: "it broke",
      failure_category: "test",
    });
    expect(await feed.next()).toBe(eventOf(scene, keys, "failed"));
  });

  test.each([
    [{ max_retries: 1 }, 0, 1_000],
    [{ max_retries: 3, backoff: { type: "fixed", delay_ms: 250 } }, 2, 250],
    [{ max_retries: 9, backoff: { type: "exponential", initial_delay_ms: 100, multiplier: 3 } }, 0, 100],
    [{ max_retries: 9, backoff: { type: "exponential", initial_delay_ms: 100, multiplier: 3 } }, 2, 900],
    [{ max_retries: 9, backoff: { type: "exponential", max_delay_ms: 3_500 } }, 2, 3_500],
    [{ max_retries: 5_000, backoff: { type: "exponential" } }, 4_000, 60_000],
  ])("%j: retry %d waits %d ms", async (policy, retriesBefore, delayMs) => {
    const scene = newScene();
    const keys = await scene.member();
    await scene.read("hset", keys.core, "retry_count", retriesBefore);
    const lease = await scene.claim(keys);
    const from = await serverTime(scene);
    const [verdict, delayUntil] = await scene.fail(keys, lease, JSON.stringify(policy));
    const to = await serverTime(scene);
    expect(verdict).toBe("retry_scheduled");
    expectTimeIn(delayUntil, from + delayMs, to + delayMs);
    expect(await scene.hash(keys.core)).toMatchObject({
      ...RETRYING,
      attempt_state: "pending_retry_attempt",
      retry_count: String(retriesBefore + 1),
      delay_until: delayUntil,
      completed_at: "",
    });
    await expectReleased(scene, keys);
    await expectOnlyIn(scene, keys, "delayed", Number(delayUntil));
  });

  test("no retry is left", async () => {
    const scene = newScene();
    const keys = await scene.execution();
    await scene.read("hset", keys.core, "retry_count", 2);
    expect(await scene.fail(keys, await scene.claim(keys), '{"max_retries":2}')).toEqual(["terminal_failed"]);
  });

  test.each(["{", "5", '{"max_retries":"2"}', '{"max_retries":1,"backoff":{"type":"random"}}'])(
    "the malformed retry policy %s gives no retry: an execution can fail whatever its policy",
    async (retryPolicyJson) => {
      const scene = newScene();
      const keys = await scene.execution();
      expect(await scene.fail(keys, await scene.claim(keys), retryPolicyJson)).toEqual(["terminal_failed"]);
    },
  );

  test.each(ENDS)("%s refuses, in the contract's order", async (_name, endOf) => {
    const scene = newScene();
    const nobody: Lease = { leaseId: "x", epoch: "9", attemptId: "x", attemptIndex: attempt(0) };
    await expectRefusal(scene, endOf(scene, scene.newExecution(), nobody), "execution_not_found");
    const keys = await scene.execution();
    await expectRefusal(scene, endOf(scene, keys, nobody), "execution_not_active", "none", "0");
    const lease = await scene.claim(keys);
    const set = (...fields: string[]) => scene.read("hset", keys.core, ...fields);
    const expiresAt = String(field(await scene.hash(keys.core), "lease_expires_at"));
    await set("ownership_state", "lease_revoked", "lease_expires_at", "1");
    await expectRefusal(scene, endOf(scene, keys, nobody), "lease_revoked");
    await set("ownership_state", "leased");
    await expectRefusal(scene, endOf(scene, keys, nobody), "lease_expired");
    await set("ownership_state", "lease_expired_reclaimable", "lease_expires_at", expiresAt);
    await expectRefusal(scene, endOf(scene, keys, nobody), "lease_expired");
    await set("ownership_state", "leased");
    for (const stale of [{ leaseId: "x" }, { epoch: "0" }, { attemptId: "x" }]) {
      await expectRefusal(scene, endOf(scene, keys, { ...lease, ...stale }), "stale_lease");
    }
    await scene.done(endOf(scene, keys, lease));
  });

  test.each(ENDS)(
    "%s ignores one argument more, which the 14-KEYS edition may be given",
    async (_name, endOf) => {
      const scene = newScene();
      const keys = await scene.execution();
      const command = endOf(scene, keys, await scene.claim(keys));
      await scene.done({ ...command, args: [...command.args, "one more"] });
      expect(await scene.hash(keys.core)).toMatchObject({ lifecycle_phase: "terminal" });
    },
  );

  test.each(["runnable", "active", "delayed", "blocked"])(
    "ff_cancel_execution ends what is %s",
    async (stand) => {
      const scene = newScene();
      const keys = await scene.member(
        stand === "delayed" ? { delayUntil: (await serverTime(scene)) + 60_000 } : {},
      );
      using feed = await completionsOf(deployment, scene.flow.id);
      if (stand === "active") await scene.claim(keys);
      if (stand === "blocked") await scene.edge(await scene.member(), keys);
      const phase = stand === "active" ? "active" : "runnable";
      expect(await scene.cancel(keys)).toEqual(["cancelled", phase]);
      const core = await scene.hash(keys.core);
      expect(core).toMatchObject({
        ...ended("cancelled"),
        attempt_state: stand === "active" ? "attempt_terminal" : "none",
        cancellation_reason: "not wanted",
        cancelled_by: "operator",
      });
      await expectReleased(scene, keys);
      await expectOnlyIn(scene, keys, "terminal", Number(field(core, "completed_at")));
      if (stand === "active") {
        const record = await scene.hash(keys.attempt(attempt(0)));
        expect(record).toMatchObject({ attempt_state: "ended_cancelled" });
      }
      expect(await feed.next()).toBe(eventOf(scene, keys, "cancelled"));
    },
  );

  test("ff_cancel_execution refuses what has ended or never was, and is silent for a flow's cascade", async () => {
    const scene = newScene();
    const [first, second] = [await scene.member(), await scene.member()];
    using feed = await completionsOf(deployment, scene.flow.id);
    await scene.cancel(first, "flow_cascade");
    await scene.cancel(second, "operator");
    expect(await feed.next()).toBe(eventOf(scene, second, "cancelled"));
    const cancel = (keys: ExecKeys) =>
      cancelExecution(scene.target(keys), WORKER, attempt(0), { reason: "", source: "" });
    await expectRefusal(scene, cancel(first), "execution_not_active", "cancelled", "0");
    await expectRefusal(scene, cancel(scene.newExecution()), "execution_not_found");
  });
});
