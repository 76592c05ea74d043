/** Leases of running executions. Timers are simulated, so that a third of a lease passes at once. */

import { setImmediate } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { submitFlow } from "#sdk/submission/submit.ts";
import type { Execution } from "#sdk/worker/worker.ts";
import { workBatch } from "#sdk/worker/worker.ts";
import { parseAttemptIndex, unwrap } from "#shared/contract/ids.ts";
import { cancelExecution, type Target } from "#shared/contract/ownership.ts";
import { revokeLease } from "#shared/contract/upkeep.ts";
import { LeaseLostError } from "#shared/errors.ts";
import { valueOrThrow } from "#shared/valkey/batches.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { InterceptedPipelines, LANE, RecordingPublisher, recordOf, task } from "#test/submission/fixture.ts";
import { newFlowId, ROUTER } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS_OF_BOTH, run } from "#test/support/valkey.ts";

const SUCCESS = { outcome: "success", result: "" } as const;
const IDENTITY = { workerId: "w", instanceId: "w-1" };
/** A third of the default lease, and the part of it after which a failed renewal is repeated. */
const INTERVAL_MS = 20_000;
const RETRY_MS = 2_000;

interface Running {
  readonly execution: Execution;
  readonly target: Target;
  /** Lets time pass for timers. Returns the number of renewals after those that became due. */
  pass(milliseconds: number): Promise<number>;
}

describe.each(DEPLOYMENTS_OF_BOTH)(
  "leases of running executions ($name, edition $edition)",
  ({ connect }) => {
    let valkey: Valkey;
    beforeAll(() => {
      valkey = connect();
    });
    afterAll(() => valkey.close());
    beforeEach(() => {
      vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    });
    afterEach(() => {
      vi.useRealTimers();
    });

    /** Runs one execution, and `during` in its handler. The replies of the renewals in `lost` are lost. */
    async function runOne(during: (running: Running) => Promise<void>, lost: readonly number[] = []) {
      const flowId = newFlowId();
      const completions = new RecordingPublisher();
      const workflow = { name: "leases", tasks: [task("a")], edges: [] };
      const submission = await submitFlow({ valkey, router: ROUTER, completions }, workflow, { flowId });
      const source = { partition: submission.partition, lane: LANE };
      let renewals = 0;
      let underWay: Promise<unknown> = Promise.resolve();
      const watched = new InterceptedPipelines(valkey, (_, send, commands) => {
        const sent = send();
        if (commands[0]?.args[0] !== "ff_renew_lease") return sent;
        renewals += 1;
        const isLost = lost.includes(renewals);
        underWay = sent;
        return sent.then((results) =>
          isLost ? results.map(() => ({ ok: false, error: new Error("reply lost") })) : results,
        );
      });
      const pass = async (milliseconds: number) => {
        vi.advanceTimersByTime(milliseconds);
        await underWay;
        await setImmediate();
        return renewals;
      };
      const worked = await workBatch(
        { valkey: watched, router: ROUTER, completions, identity: IDENTITY },
        source,
        async (execution) => {
          const keys = ROUTER.execKeys(execution.id);
          const target = { keys, index: ROUTER.indexKeys(source.partition), lane: LANE };
          await during({ execution, target, pass });
          return SUCCESS;
        },
        { limit: 1 },
      );
      return { status: worked.map(({ status }) => status).join(), completions };
    }

    test("are renewed every third of their time", async () => {
      const { status, completions } = await runOne(async ({ execution, target, pass }) => {
        const { partition, leaseCurrent } = target.keys;
        const ttl = () => run(valkey, partition, "pttl", leaseCurrent);
        expect(await pass(INTERVAL_MS / 2)).toBe(0);
        expect(await ttl()).toBe(-1);
        expect(await pass(INTERVAL_MS / 2)).toBe(1);
        // The first renewal gives lease:current an expiry.
        expect(await ttl()).toBeGreaterThan(60_000);
        expect(await pass(INTERVAL_MS)).toBe(2);
        expect(execution.signal.aborted).toBe(false);
      });
      expect(status).toBe("completed");
      expect(completions.sent).toHaveLength(1);
    });

    test("are renewed again after a lost reply", async () => {
      const { status } = await runOne(
        async ({ execution, pass }) => {
          expect(await pass(INTERVAL_MS)).toBe(1);
          expect(await pass(RETRY_MS)).toBe(2);
          expect(await pass(RETRY_MS)).toBe(3);
          // The third one was answered.
          expect(await pass(RETRY_MS)).toBe(3);
          expect(await pass(INTERVAL_MS - RETRY_MS)).toBe(4);
          expect(execution.signal.aborted).toBe(false);
        },
        [1, 2],
      );
      expect(status).toBe("completed");
    });

    async function lose(interfere: (target: Target) => Promise<unknown>) {
      let reason: unknown;
      const { status, completions } = await runOne(async ({ execution: { signal }, target, pass }) => {
        await interfere(target);
        expect(await pass(INTERVAL_MS)).toBe(1);
        expect(signal.aborted).toBe(true);
        reason = signal.reason;
        expect(await pass(INTERVAL_MS)).toBe(1);
      });
      expect(status).toBe("lease_lost");
      expect(completions.sent).toEqual([]);
      expect(reason).toBeInstanceOf(LeaseLostError);
      return String(reason);
    }

    test("abort the handler's signal if they are revoked, and the outcome is not reported", async () => {
      let revoked: Target | undefined;
      const reason = await lose((target) => {
        revoked = target;
        return valkey.pipelined([revokeLease(target, IDENTITY.instanceId, "", "test")]);
      });
      expect(reason).toMatch(/is lost: lease_revoked$/);
      if (revoked === undefined) throw new Error("nothing was revoked");
      expect(await recordOf(valkey, revoked.keys.id, "lifecycle_phase", "ownership_state")).toEqual({
        lifecycle_phase: "active",
        ownership_state: "lease_revoked",
      });
    });

    test("abort the handler's signal if the execution was cancelled", async () => {
      const cancellation = { reason: "not wanted", source: "operator_override" };
      const first = unwrap(parseAttemptIndex("0"));
      const reason = await lose(async (target) => {
        const [reply] = await valkey.pipelined([cancelExecution(target, IDENTITY, first, cancellation)]);
        expect(valueOrThrow(reply)).toContain("cancelled");
      });
      expect(reason).toMatch(/is lost: execution_not_active$/);
    });

    test("leave no timer behind, and none that keeps the process alive", async () => {
      const timers = vi.spyOn(globalThis, "setTimeout");
      const before = vi.getTimerCount();
      const { status } = await runOne(() => Promise.resolve());
      expect(status).toBe("completed");
      expect(vi.getTimerCount()).toBe(before);
      const renewal = timers.mock.calls.findIndex(([, delay]) => Number(delay) > INTERVAL_MS / 2);
      expect(timers.mock.results[renewal]?.value.hasRef()).toBe(false);
      timers.mockRestore();
    });
  },
);
