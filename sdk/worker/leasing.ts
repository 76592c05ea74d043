import { DEFAULT_RETRY_DELAYS_MS, readWithRetries } from "#sdk/worker/retry.ts";
import { command, type Pipelines, type ValkeyCommand, type ValkeyResult } from "#shared/contract/command.ts";
import { type LaneId, type Partition, parseAttemptIndex, parseExecutionId } from "#shared/contract/ids.ts";
import type { Lease, Target, WorkerIdentity } from "#shared/contract/ownership.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText } from "#shared/contract/record.ts";
import type { Reply } from "#shared/contract/reply.ts";
import { pairResults } from "#shared/contract/results.ts";
import { isRecordError, ProtocolError } from "#shared/errors.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import { noResult, refusalError, replyOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";

/** A worker and its connection to Valkey. */
export interface WorkerClient {
  /** It must replace a lost connection, as that of `connect` does: otherwise, retries cannot succeed. */
  readonly valkey: Pipelines;
  readonly identity: WorkerIdentity;
  /**
   * Delays before the retries of a Valkey call between claim and completion, in milliseconds, one per retry. Keep their
   * sum well below the lease. About 26 s in all by default.
   */
  readonly retryDelaysMs?: readonly number[];
}

/** What claiming needs. */
export interface ClaimDependencies extends WorkerClient {
  readonly router: PartitionRouter;
  /** Publishes the completions of executions that reached the limit of reclaims. */
  readonly completions: CompletionPublisher;
}

/** Where a worker claims executions: one lane of one partition. */
export interface WorkSource {
  readonly partition: Partition;
  readonly lane: LaneId;
}

/** How many executions to claim, and for how long. */
export interface ClaimOptions {
  /** The largest number of executions to claim. */
  readonly limit: number;
  /** Milliseconds; 60,000 by default. `workBatch` renews the leases every third of it. */
  readonly leaseTtlMs?: number;
}

export const DEFAULT_LEASE_TTL_MS = 60_000;
/** How long a granted execution is kept for this worker. */
export const GRANT_TTL_MS = 5_000;

/** Refusals which mean that this worker cannot take the execution: another one was faster, or a capability is missing. */
export const LOST_RACE_CODES: ReadonlySet<string> = new Set([
  "active_attempt_exists",
  "capability_mismatch",
  "claim_grant_expired",
  "execution_not_eligible",
  "execution_not_found",
  "execution_not_in_eligible_set",
  "execution_not_leaseable",
  "execution_not_reclaimable",
  "grant_already_exists",
  "invalid_claim_grant",
  "lease_conflict",
  "use_claim_resumed_execution",
]);
/** Refusals which mean that this worker no longer holds the lease. */
export const LEASE_LOST_CODES: ReadonlySet<string> = new Set([
  "execution_not_active",
  "execution_not_found",
  "lease_expired",
  "lease_revoked",
  "stale_lease",
]);
/** `ff_reclaim_execution`: the execution has just failed, because it was reclaimed too often. */
const RECLAIM_LIMIT_REACHED = "max_retries_exhausted";
const RECLAIM_LIMIT_REASON = "max_reclaims_exceeded";

/** A call that takes a lease. */
export interface LeaseCall {
  readonly target: Target;
  readonly leaseId: string;
  readonly command: ValkeyCommand;
  /** The policy in the execution's record, as JSON. */
  readonly policy: string;
}

/** An execution that this worker has just leased. */
export interface LeasedExecution {
  readonly target: Target;
  readonly lease: Lease;
  readonly policy: string;
}

export interface LeaseResults {
  readonly leased: readonly LeasedExecution[];
  /** Executions that have failed because they were reclaimed too often. */
  readonly ended: readonly Target[];
}

/** The executions of some ids, as an index lists them. Malformed ids are left out. */
export function targetsOf(
  { router }: Pick<ClaimDependencies, "router">,
  { partition, lane }: WorkSource,
  ids: readonly unknown[],
): Target[] {
  const index = router.indexKeys(partition);
  return ids.flatMap((id) => {
    const parsed = parseExecutionId(id);
    return parsed.ok ? [{ keys: router.execKeys(parsed.value), index, lane }] : [];
  });
}

/**
 * Asks for grants. Returns the items that were granted to this worker, with the policies in their records. Throws if no
 * grant was issued and a call failed.
 */
export async function issueGrants<Item extends { readonly target: Target }>(
  { valkey }: Pick<WorkerClient, "valkey">,
  items: readonly Item[],
  grantOf: (item: Item) => ValkeyCommand,
): Promise<{ readonly item: Item; readonly policy: string }[]> {
  const calls = items.map((item) => {
    const { partition, policy } = item.target.keys;
    return { item, grant: grantOf(item), read: command(partition, "get", policy) };
  });
  const results = await sendAll(
    valkey,
    calls.flatMap(({ grant, read }) => [grant, read]),
  );
  const granted = calls.flatMap(({ item, grant: { args } }, position) => {
    const [grant, policy] = results.slice(2 * position, 2 * position + 2);
    // A grant whose policy is unknown expires soon, and so does one whose reply was lost.
    if (grant?.ok !== true || policy?.ok !== true) return [];
    return isGranted(String(args[0]), replyOrThrow(grant.value))
      ? [{ item, policy: fieldText(policy.value) }]
      : [];
  });
  if (granted.length === 0) throwFirstFailure(results);
  return granted;
}

/**
 * Sends calls of `ff_claim_execution` or `ff_reclaim_execution`. If a reply is lost, the record shows whether the call was
 * executed. Throws if a call failed and none had an effect.
 */
export async function takeLeases(
  deps: ClaimDependencies,
  functionName: string,
  calls: readonly LeaseCall[],
): Promise<LeaseResults> {
  const replies = await sendAll(
    deps.valkey,
    calls.map((call) => call.command),
  );
  const results = pairResults(calls, replies, noResult);
  const leased: LeasedExecution[] = [];
  const ended: Target[] = [];
  for (const { item, result } of results) {
    if (!result.ok) continue;
    const reply = replyOrThrow(result.value);
    if (reply.kind === "refused" && reply.code === RECLAIM_LIMIT_REACHED) ended.push(item.target);
    else if (isGranted(functionName, reply)) {
      const [leaseId = "", epoch = "", , attemptId = "", attempt = ""] = reply.fields;
      leased.push(leasedBy(item, [leaseId, epoch, attemptId, attempt]));
    }
  }
  const unanswered = results
    .filter(({ result }) => !result.ok && !isRecordError(result.error))
    .map(({ item }) => item);
  const recovered = await recoverLeases(deps, unanswered);
  leased.push(...recovered.leased);
  ended.push(...recovered.ended);
  if (leased.length + ended.length === 0) throwFirstFailure(results.map(({ result }) => result));
  return { leased, ended };
}

/** Finds the calls that were executed although their reply was lost: the record holds the lease id of the call. */
export async function recoverLeases(
  { valkey, retryDelaysMs = DEFAULT_RETRY_DELAYS_MS }: WorkerClient,
  unanswered: readonly LeaseCall[],
): Promise<LeaseResults> {
  const fields = ["current_lease_id", "current_lease_epoch", "current_attempt_id", "current_attempt_index"];
  const records = await readWithRetries(
    valkey,
    unanswered.map(({ target: { keys } }) =>
      command(keys.partition, "hmget", keys.core, ...fields, "lifecycle_phase", "failure_reason"),
    ),
    retryDelaysMs,
  );
  const leased: LeasedExecution[] = [];
  const ended: Target[] = [];
  for (const [position, call] of unanswered.entries()) {
    const texts = listOf(records[position]).map(fieldText);
    const [leaseId, , , , phase, failureReason] = texts;
    if (leaseId === call.leaseId) leased.push(leasedBy(call, texts));
    // Another worker's call may have ended it: then its completion is published twice, which changes nothing.
    else if (phase === "terminal" && failureReason === RECLAIM_LIMIT_REASON) ended.push(call.target);
  }
  return { leased, ended };
}

function leasedBy(
  { target, policy }: LeaseCall,
  [leaseId = "", epoch = "", attemptId = "", attempt = ""]: readonly string[],
): LeasedExecution {
  const attemptIndex = parseAttemptIndex(attempt);
  if (!attemptIndex.ok)
    throw new ProtocolError(`the lease of ${target.keys.id}: ${attemptIndex.error.message}`);
  return { target, policy, lease: { leaseId, epoch, attemptId, attemptIndex: attemptIndex.value } };
}

/** False if another worker was faster. Throws a RefusedError for any other refusal. */
function isGranted(functionName: string, reply: Reply): reply is Extract<Reply, { kind: "done" }> {
  if (reply.kind === "done") return true;
  if (LOST_RACE_CODES.has(reply.code)) return false;
  throw refusalError(functionName, reply);
}

/** An execution whose record is unreadable is skipped: it would keep every worker from the executions behind it. */
export function throwFirstFailure(results: readonly (ValkeyResult | undefined)[]): void {
  const failed = results.find((result) => result?.ok === false && !isRecordError(result.error));
  if (failed !== undefined) valueOrThrow(failed);
}

export function sendAll(valkey: Pipelines, commands: readonly ValkeyCommand[]): Promise<ValkeyResult[]> {
  return commands.length === 0 ? Promise.resolve([]) : valkey.pipelined(commands);
}

export function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}
