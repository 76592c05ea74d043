import { randomUUID } from "node:crypto";
import { idsUpTo } from "#sdk/scored-members.ts";
import {
  type ClaimDependencies,
  type ClaimOptions,
  DEFAULT_LEASE_TTL_MS,
  GRANT_TTL_MS,
  issueGrants,
  type LeaseCall,
  type LeasedExecution,
  listOf,
  sendAll,
  takeLeases,
  targetsOf,
  throwFirstFailure,
  type WorkSource,
} from "#sdk/worker/leasing.ts";
import { publishCompletions } from "#sdk/worker/publish.ts";
import { command, type ValkeyCommand, type ValkeyResult } from "#shared/contract/command.ts";
import { type AttemptIndex, parseAttemptIndex } from "#shared/contract/ids.ts";
import type { Target } from "#shared/contract/ownership.ts";
import { fieldText } from "#shared/contract/record.ts";
import { issueReclaimGrant, reclaimExecution } from "#shared/contract/upkeep.ts";
import { chunked, valueOrThrow } from "#shared/valkey/batches.ts";
import { serverTimeMs } from "#shared/valkey/server-time.ts";

/** How often an execution is reclaimed, unless its policy has `max_reclaim_count`. */
const DEFAULT_RECLAIM_LIMIT = 5;
const RECLAIMABLE: ReadonlySet<string> = new Set(["lease_expired_reclaimable", "lease_revoked"]);
/** Entries of `lease_expiry` that are read at once. */
const PAGE = 100;
/** Active executions that are looked at for a revoked lease. */
const SAMPLE = 10;

/**
 * Reads where the interrupted executions of a lane are found. Expired leases are at the front of `lease_expiry`, together
 * with those of other lanes. Revoked ones are in no index of their own: they are active and not in `lease_expiry`, so a
 * random sample of the lane's active executions finds them after a while, whatever their number.
 */
export function interruptedReads({ router }: ClaimDependencies, source: WorkSource): ValkeyCommand[] {
  const { partition, lane } = source;
  const { active } = router.indexKeys(partition).lane(lane);
  return [
    command(partition, "time"),
    expiryPage({ router }, partition, 0),
    command(partition, "zrandmember", active, SAMPLE),
  ];
}

/**
 * Takes over executions of a lane whose lease is marked as expired, or was revoked, as new attempts: at most `limit`, and
 * only one if it was reclaimed before. One that was reclaimed too often fails instead, and its completion is published.
 * Returns an empty array if there is nothing to reclaim.
 *
 * @param reads The results of `interruptedReads`.
 * @param options `withRevoked`: whether to look for revoked leases, which costs a round trip in a lane with active
 * executions.
 */
export async function reclaimInterrupted(
  deps: ClaimDependencies,
  source: WorkSource,
  reads: readonly (ValkeyResult | undefined)[],
  options: ClaimOptions & { readonly withRevoked: boolean },
): Promise<readonly LeasedExecution[]> {
  const { valkey } = deps;
  const [time, page, sample] = reads;
  const nowMs = serverTimeMs(valueOrThrow(time));
  let expired = idsUpTo(nowMs, valueOrThrow(page));
  let sampled = options.withRevoked ? listOf(valueOrThrow(sample)) : [];
  for (let offset = PAGE; expired.length + sampled.length > 0; offset += PAGE) {
    const candidates = await candidatesOf(deps, source, expired, sampled);
    for (const batch of batchesOf(await readInterrupted(deps, candidates), options.limit)) {
      const leased = await reclaimTargets(deps, batch, options);
      if (leased.length > 0) return leased;
    }
    // Marked entries stay at the front until they are reclaimed: go on behind those of other lanes.
    if (expired.length < PAGE) return [];
    const [next] = await valkey.pipelined([expiryPage(deps, source.partition, offset)]);
    expired = idsUpTo(nowMs, valueOrThrow(next));
    sampled = [];
  }
  return [];
}

function expiryPage(
  { router }: Pick<ClaimDependencies, "router">,
  partition: WorkSource["partition"],
  offset: number,
): ValkeyCommand {
  const { leaseExpiry } = router.indexKeys(partition);
  return command(partition, "zrange", leaseExpiry, offset, offset + PAGE - 1, "withscores");
}

/** Those of the expired that are active in this lane, and those of the sample whose lease has no expiry any more. */
async function candidatesOf(
  deps: ClaimDependencies,
  source: WorkSource,
  expired: readonly unknown[],
  sampled: readonly unknown[],
): Promise<Target[]> {
  const index = deps.router.indexKeys(source.partition);
  const lookups = [
    { zset: index.lane(source.lane).active, ids: expired.map(String), isWanted: isPresent },
    { zset: index.leaseExpiry, ids: sampled.map(String), isWanted: (score: unknown) => !isPresent(score) },
  ].filter(({ ids }) => ids.length > 0);
  const replies = await deps.valkey.pipelined(
    lookups.map(({ zset, ids }) => command(source.partition, "zmscore", zset, ...ids)),
  );
  const wanted = lookups.flatMap(({ ids, isWanted }, position) => {
    const scores = listOf(valueOrThrow(replies[position]));
    return ids.filter((_, at) => isWanted(scores[at]));
  });
  return targetsOf(deps, source, wanted);
}

function isPresent(score: unknown): boolean {
  return score !== null && score !== undefined;
}

interface Interrupted {
  readonly target: Target;
  readonly attempt: AttemptIndex;
  readonly hasBeenReclaimed: boolean;
}

/** Those of the candidates whose lease is marked as expired, or revoked. An unreadable record is left out. */
async function readInterrupted(
  { valkey }: ClaimDependencies,
  candidates: readonly Target[],
): Promise<Interrupted[]> {
  const fields = ["ownership_state", "current_attempt_index", "lease_reclaim_count"];
  const records = await sendAll(
    valkey,
    candidates.map(({ keys }) => command(keys.partition, "hmget", keys.core, ...fields)),
  );
  throwFirstFailure(records);
  return candidates.flatMap((target, position): Interrupted[] => {
    const record = records[position];
    const [ownership = "", index = "", reclaims] = record?.ok ? listOf(record.value).map(fieldText) : [];
    const attempt = parseAttemptIndex(index);
    if (!RECLAIMABLE.has(ownership) || !attempt.ok) return [];
    return [{ target, attempt: attempt.value, hasBeenReclaimed: Number(reclaims) > 0 }];
  });
}

/**
 * An execution that was reclaimed before may be what ends its workers, so it runs alone: others that ran with it would
 * reach the limit together with it.
 */
function batchesOf(interrupted: readonly Interrupted[], limit: number): Interrupted[][] {
  const first = interrupted.filter(({ hasBeenReclaimed }) => !hasBeenReclaimed);
  const suspicious = interrupted.filter(({ hasBeenReclaimed }) => hasBeenReclaimed);
  return [...chunked(first, () => 1, limit), ...suspicious.map((one) => [one])];
}

/**
 * Takes over executions whose lease is marked as expired, or was revoked, as new attempts. Returns those that no other worker
 * took over before. One that was reclaimed too often fails instead, and its completion is published.
 */
export async function reclaimTargets(
  deps: ClaimDependencies,
  interrupted: readonly Pick<Interrupted, "target" | "attempt">[],
  {
    leaseTtlMs = DEFAULT_LEASE_TTL_MS,
    reclaimLimit = DEFAULT_RECLAIM_LIMIT,
  }: Pick<ClaimOptions, "leaseTtlMs"> & { readonly reclaimLimit?: number },
): Promise<readonly LeasedExecution[]> {
  const { identity } = deps;
  const granted = await issueGrants(deps, interrupted, ({ target }) =>
    issueReclaimGrant(target, identity, GRANT_TTL_MS),
  );
  const calls = granted.map(({ item: { target, attempt }, policy }): LeaseCall => {
    const request = {
      interrupted: attempt,
      leaseId: randomUUID(),
      leaseTtlMs,
      attemptId: randomUUID(),
      limit: reclaimLimit,
    };
    return {
      target,
      leaseId: request.leaseId,
      policy,
      command: reclaimExecution(target, identity, request),
    };
  });
  const { leased, ended } = await takeLeases(deps, "ff_reclaim_execution", calls);
  const [failure] = await publishCompletions(
    deps,
    ended.map(({ keys }) => ({ keys, outcome: "failed" })),
  );
  // Leases that were taken must reach the caller. The reconciler sends a completion that was not published.
  if (leased.length === 0 && failure !== undefined) throw failure;
  return leased;
}
