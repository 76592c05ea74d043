import {
  type ClaimDependencies,
  type ClaimedExecution,
  type ClaimOptions,
  claimBatch,
  type WorkSource,
} from "#sdk/worker/claim.ts";
import {
  type FinishDependencies,
  finishBatch,
  type RunOutcome,
  type WorkedExecution,
} from "#sdk/worker/finish.ts";
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
}

/** Runs one execution. If it throws, the run has failed with the error's message as its reason. */
export type ExecutionHandler = (execution: Execution) => Promise<RunOutcome>;

export type WorkDependencies = ClaimDependencies & FinishDependencies;

/**
 * Runs one round of a worker: claims up to `limit` eligible executions of one lane in one partition, runs them
 * concurrently, writes their outcomes and publishes their completions. Returns one status per claimed execution, and
 * an empty array if nothing could be claimed. Call it in a loop.
 *
 * @throws ValkeyError if Valkey fails before a claim, or for longer than all retries last. Executions that are claimed
 * by then stay active: Sluice does not reclaim leases.
 * @throws NotReplicatedError if `replicated` is given and too few replicas confirmed an outcome after all retries. The
 * outcome is written, and the reconciler sends its completion later.
 * @throws PublishError if a completion was not accepted. Its outcome is written, and the reconciler sends it later.
 * @throws RefusedError if a Valkey function refuses a call for a reason other than a lost race.
 * @throws ProtocolError if a Valkey function replies in a form that the contract does not have.
 *
 * @example
 * const valkey = new ReconnectingValkey((knownNodes) => new Valkey(address, { knownNodes, onConnectionError }));
 * const deps = { valkey, router, completions, identity: { workerId: "resizer", instanceId: randomUUID() } };
 * const worked = await workBatch(
 *   deps,
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
  const claims = await claimBatch(deps, source, options);
  if (claims.length === 0) return [];
  const finished = await Promise.all(
    claims.map(async (claimed) => ({ claimed, run: await runHandler(handler, claimed) })),
  );
  return finishBatch(deps, finished);
}

async function runHandler(
  handler: ExecutionHandler,
  { target, lease, payload }: ClaimedExecution,
): Promise<RunOutcome> {
  const { keys, lane } = target;
  try {
    return await handler({ id: keys.id, lane, payload, attemptIndex: lease.attemptIndex });
  } catch (error) {
    return { outcome: "failed", reason: messageOf(error) };
  }
}
