import {
  type ClaimDependencies,
  type ClaimedExecution,
  type ClaimOptions,
  claimBatch,
  type WorkSource,
} from "#sdk/worker/claim.ts";
import {
  type FinishDependencies,
  type FinishStatus,
  finishBatch,
  type RunOutcome,
} from "#sdk/worker/finish.ts";
import type { AttemptIndex, ExecutionId, LaneId } from "#shared/contract/ids.ts";
import { messageOf } from "#shared/errors.ts";

/** What a run gets to know. */
export interface Execution {
  readonly id: ExecutionId;
  readonly lane: LaneId;
  /** Its own, or the result that an upstream passed on; empty: none. */
  readonly payload: string;
  /** 0 for the first attempt. */
  readonly attemptIndex: AttemptIndex;
}

/** Does the work. One that throws has failed, for the reason that the error gives. */
export type ExecutionHandler = (execution: Execution) => Promise<RunOutcome>;

export type WorkDependencies = ClaimDependencies & FinishDependencies;

export interface WorkedExecution {
  readonly id: ExecutionId;
  readonly conclusion: FinishStatus;
}

/**
 * Takes up to `limit` eligible executions of one lane and partition, runs them at the same time, writes
 * what they came to and sends their completions. Returns what it took, which is nothing where another
 * worker was quicker. Throws as `claimBatch` and `finishBatch` do.
 */
export async function workBatch(
  deps: WorkDependencies,
  place: WorkSource,
  run: ExecutionHandler,
  options: ClaimOptions,
): Promise<WorkedExecution[]> {
  const claims = await claimBatch(deps, place, options);
  if (claims.length === 0) return [];
  const finished = await Promise.all(
    claims.map(async (claimed) => ({ claimed, run: await outcomeOf(run, claimed) })),
  );
  const conclusions = await finishBatch(deps, finished);
  return claims.flatMap(({ target }, position) => {
    const conclusion = conclusions[position];
    return conclusion === undefined ? [] : [{ id: target.keys.id, conclusion }];
  });
}

async function outcomeOf(
  run: ExecutionHandler,
  { target, lease, payload }: ClaimedExecution,
): Promise<RunOutcome> {
  const { keys, lane } = target;
  try {
    return await run({ id: keys.id, lane, payload, attemptIndex: lease.attemptIndex });
  } catch (error) {
    return { outcome: "failed", reason: messageOf(error) };
  }
}
