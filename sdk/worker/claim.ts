import { randomUUID } from "node:crypto";
import {
  type ClaimDependencies,
  type ClaimOptions,
  DEFAULT_LEASE_TTL_MS,
  GRANT_TTL_MS,
  issueGrants,
  type LeaseCall,
  type LeasedExecution,
  listOf,
  takeLeases,
  targetsOf,
  type WorkSource,
} from "#sdk/worker/leasing.ts";
import { parseWorkerPolicy } from "#sdk/worker/policy.ts";
import { interruptedReads, reclaimInterrupted } from "#sdk/worker/reclaim.ts";
import { DEFAULT_RETRY_DELAYS_MS, readWithRetries } from "#sdk/worker/retry.ts";
import { command } from "#shared/contract/command.ts";
import { claimExecution, issueClaimGrant, type Lease, type Target } from "#shared/contract/ownership.ts";
import { fieldText } from "#shared/contract/record.ts";
import { isPausedReply, readPause } from "#shared/ready/paused-lanes.ts";
import { valueOrThrow } from "#shared/valkey/batches.ts";

/** An execution that this worker owns until its lease ends. */
export interface ClaimedExecution {
  readonly target: Target;
  readonly lease: Lease;
  readonly payload: string;
  /** For `ff_fail_execution`. Empty: a failure is final. */
  readonly retryPolicyJson: string;
}

/**
 * Claims up to `limit` executions: those whose worker lost its lease, or else eligible ones, the highest priority first.
 * Interrupted executions come in a batch of their own, since one of them may be what ended their workers. Returns an empty
 * array if nothing could be claimed, or if an operator has paused the lane.
 *
 * @throws ValkeyError if Valkey fails before anything is claimed, or for longer than all retries last.
 * @throws PublishError if nothing is claimed, and the completion of an execution that reached the limit of reclaims was not
 * accepted. The reconciler sends it later.
 * @throws RefusedError if a Valkey function refuses a call for a reason other than a lost race.
 * @throws ProtocolError if a Valkey function replies in a form that the contract does not have.
 */
export async function claimBatch(
  deps: ClaimDependencies,
  source: WorkSource,
  options: ClaimOptions,
): Promise<ClaimedExecution[]> {
  const { eligible } = deps.router.indexKeys(source.partition).lane(source.lane);
  const pageAt = (offset: number) =>
    command(source.partition, "zrange", eligible, offset, offset + options.limit - 1);
  const reads = [pageAt(0), ...interruptedReads(deps, source)];
  const results = await deps.valkey.pipelined([...reads, readPause(source.lane)]);
  const pause = results[reads.length];
  // In a cluster, another node may hold the pauses: while it is down, work goes on.
  if (pause?.ok && isPausedReply(pause.value)) return [];
  let [page, ...interrupted] = results.slice(0, reads.length);
  let ids = listOf(valueOrThrow(page));
  const withRevoked = ids.length < options.limit;
  const reclaimed = await reclaimInterrupted(deps, source, interrupted, { ...options, withRevoked });
  if (reclaimed.length > 0) return readPayloads(deps, reclaimed);
  for (let offset = options.limit; ; offset += options.limit) {
    const leased = await claimTargets(deps, targetsOf(deps, source, ids), options);
    // If other workers hold the whole page, go on to the next one.
    if (leased.length > 0 || ids.length < options.limit) return readPayloads(deps, leased);
    [page] = await deps.valkey.pipelined([pageAt(offset)]);
    ids = listOf(valueOrThrow(page));
  }
}

/** Claims those of the executions that no other worker holds. Throws as `claimBatch` does. */
export async function claimTargets(
  deps: ClaimDependencies,
  targets: readonly Target[],
  { leaseTtlMs = DEFAULT_LEASE_TTL_MS }: Pick<ClaimOptions, "leaseTtlMs"> = {},
): Promise<readonly LeasedExecution[]> {
  const granted = await issueGrants(
    deps,
    targets.map((target) => ({ target })),
    ({ target }) => issueClaimGrant(target, deps.identity, GRANT_TTL_MS),
  );
  const calls = granted.map(({ item: { target }, policy }): LeaseCall => {
    const { attemptTimeoutMs } = parseWorkerPolicy(policy);
    const request = {
      leaseId: randomUUID(),
      attemptId: randomUUID(),
      leaseTtlMs,
      renewBeforeMs: Math.floor((leaseTtlMs * 2) / 3),
      ...(attemptTimeoutMs === undefined ? {} : { attemptTimeoutMs }),
    };
    return {
      target,
      leaseId: request.leaseId,
      policy,
      command: claimExecution(target, deps.identity, request),
    };
  });
  const { leased } = await takeLeases(deps, "ff_claim_execution", calls);
  return leased;
}

async function readPayloads(
  { valkey, retryDelaysMs = DEFAULT_RETRY_DELAYS_MS }: ClaimDependencies,
  leased: readonly LeasedExecution[],
): Promise<ClaimedExecution[]> {
  const payloads = await readWithRetries(
    valkey,
    leased.map(({ target: { keys } }) => command(keys.partition, "get", keys.payload)),
    retryDelaysMs,
  );
  return leased.map(({ target, lease, policy }, position) => ({
    target,
    lease,
    payload: fieldText(payloads[position]),
    retryPolicyJson: parseWorkerPolicy(policy).retryPolicyJson,
  }));
}
