import { type ClaimedExecution, claimBatch } from "#sdk/worker/claim.ts";
import {
  type FinishDependencies,
  finishBatch,
  type RunOutcome,
  type WorkedExecution,
} from "#sdk/worker/finish.ts";
import {
  type ClaimDependencies,
  type ClaimOptions,
  DEFAULT_LEASE_TTL_MS,
  type WorkSource,
} from "#sdk/worker/leasing.ts";
import { LeaseRenewals } from "#sdk/worker/renew.ts";
import type { AttemptIndex, ExecutionId, LaneId } from "#shared/contract/ids.ts";
import { messageOf } from "#shared/errors.ts";

/** What a handler receives. */
export interface Execution {
  readonly id: ExecutionId;
  readonly lane: LaneId;
  /** The task's payload, or the result that an upstream passed on. Empty: no payload. */
  readonly payload: string;
  /** 0 for the first attempt. */
  readonly attemptIndex: AttemptIndex;
  /**
   * Aborts when this worker has lost the lease of the execution: it ended, timed out, was cancelled or was revoked. The
   * outcome of the run is not reported then, so stop the work. Another worker may already run the execution again.
   */
  readonly signal: AbortSignal;
}

/** Runs one execution. If it throws, the run has failed with the error's message as its reason. */
export type ExecutionHandler = (execution: Execution) => Promise<RunOutcome>;

/** What a worker needs: a `Connection` and its own identity. */
export type WorkDependencies = ClaimDependencies & FinishDependencies;

/**
 * Runs one round of a worker: claims up to `limit` executions of one lane in one partition, runs them concurrently, writes
 * their outcomes and publishes their completions. Eligible executions are claimed, and those whose worker lost its lease.
 * Leases are renewed until the outcomes are written; all outcomes are written when the last run has ended. Returns one
 * status per claimed execution, and an empty array if nothing could be claimed. Call it in a loop.
 *
 * @throws ValkeyError if Valkey fails before a claim, or for longer than all retries last. Executions that are claimed
 * by then run again, in a later round of any worker, after their lease has expired.
 * @throws NotReplicatedError if `replicated` is given and too few replicas confirmed an outcome after all retries. The
 * outcome is written, and the reconciler sends its completion later.
 * @throws PublishError if a completion was not accepted. Its outcome is written, and the reconciler sends it later.
 * @throws RefusedError if a Valkey function refuses a call for a reason other than a lost race.
 * @throws ProtocolError if a Valkey function replies in a form that the contract does not have.
 *
 * @example
 * using sluice = await connect();
 * const worked = await workBatch(
 *   { ...sluice, identity: { workerId: "resizer", instanceId: randomUUID() } },
 *   { partition, lane },
 *   async ({ payload }) => ({ outcome: "success", result: await resize(payload) }),
 *   { limit: 10 },
 * );
 * // [{ id: "{fp:42}:0f8c…", status: "completed" }]
 */
export async function workBatch(
  deps: WorkDependencies,
  source: WorkSource,
  handler: ExecutionHandler,
  options: ClaimOptions,
): Promise<WorkedExecution[]> {
  const claimedAt = performance.now();
  const claims = await claimBatch(deps, source, options);
  if (claims.length === 0) return [];
  const ttlMs = options.leaseTtlMs ?? DEFAULT_LEASE_TTL_MS;
  using renewals = new LeaseRenewals(deps, ttlMs);
  const finished = await Promise.all(
    claims.map(async (claimed) => {
      const signal = renewals.hold(claimed, claimedAt);
      return { claimed, run: await runHandler(handler, claimed, signal), signal };
    }),
  );
  const lost = finished.filter(({ signal }) => signal.aborted);
  const worked = await finishBatch(
    deps,
    finished.filter((one) => !lost.includes(one)),
  );
  return [
    ...worked,
    ...lost.map(({ claimed }) => ({ id: claimed.target.keys.id, status: "lease_lost" as const })),
  ];
}

async function runHandler(
  handler: ExecutionHandler,
  { target, lease, payload }: ClaimedExecution,
  signal: AbortSignal,
): Promise<RunOutcome> {
  const { keys, lane } = target;
  try {
    return await handler({ id: keys.id, lane, payload, attemptIndex: lease.attemptIndex, signal });
  } catch (error) {
    return { outcome: "failed", reason: messageOf(error) };
  }
}
