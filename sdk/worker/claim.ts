import { randomUUID } from "node:crypto";
import { DEFAULT_RETRY_DELAYS_MS, readWithRetries } from "#sdk/worker/retry.ts";
import { command, type Pipelines, type ValkeyCommand, type ValkeyResult } from "#shared/contract/command.ts";
import { type LaneId, type Partition, parseAttemptIndex, parseExecutionId } from "#shared/contract/ids.ts";
import { isObject, parseJsonObject } from "#shared/contract/message.ts";
import {
  type ClaimRequest,
  claimExecution,
  issueClaimGrant,
  type Lease,
  type Target,
  type WorkerIdentity,
} from "#shared/contract/ownership.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText } from "#shared/contract/record.ts";
import type { Reply } from "#shared/contract/reply.ts";
import { pairResults } from "#shared/contract/results.ts";
import { isRecordError, ProtocolError } from "#shared/errors.ts";
import { noResult, refusalError, replyOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";

/** A worker and its connection to Valkey. */
export interface WorkerClient {
  /** Use a `ReconnectingValkey`: with a plain `Valkey` client, retries cannot succeed after a lost connection. */
  readonly valkey: Pipelines;
  readonly identity: WorkerIdentity;
  /**
   * Delays before the retries of a Valkey call between claim and completion, in milliseconds, one per retry. Keep their
   * sum well below the lease. About 26 s in all by default.
   */
  readonly retryDelaysMs?: readonly number[];
}

export interface ClaimDependencies extends WorkerClient {
  readonly router: PartitionRouter;
}

/** Where a worker claims executions: one lane of one partition. */
export interface WorkSource {
  readonly partition: Partition;
  readonly lane: LaneId;
}

export interface ClaimOptions {
  /** The largest number of executions to claim. */
  readonly limit: number;
  /** Milliseconds; 60,000 by default. Leases are not renewed: choose a value above the longest run plus all retries. */
  readonly leaseTtlMs?: number;
}

/** An execution that this worker owns until its lease ends. */
export interface ClaimedExecution {
  readonly target: Target;
  readonly lease: Lease;
  readonly payload: string;
  /** For `ff_fail_execution`. Empty: a failure is final. */
  readonly retryPolicyJson: string;
}

const DEFAULT_LEASE_TTL_MS = 60_000;
const GRANT_TTL_MS = 5_000;

/** Refusals which mean that this worker cannot take the execution: another one was faster, or a capability is missing. */
const LOST_RACE_CODES: ReadonlySet<string> = new Set([
  "active_attempt_exists",
  "capability_mismatch",
  "claim_grant_expired",
  "execution_not_eligible",
  "execution_not_found",
  "execution_not_in_eligible_set",
  "execution_not_leaseable",
  "grant_already_exists",
  "invalid_claim_grant",
  "lease_conflict",
  "use_claim_resumed_execution",
]);

/**
 * Claims up to `limit` eligible executions, the highest priority first. Returns an empty array if nothing could be
 * claimed.
 *
 * @throws ValkeyError if Valkey fails before anything is claimed, or for longer than all retries last.
 * @throws RefusedError if a Valkey function refuses a call for a reason other than a lost race.
 * @throws ProtocolError if a Valkey function replies in a form that the contract does not have.
 */
export async function claimBatch(
  deps: ClaimDependencies,
  source: WorkSource,
  options: ClaimOptions,
): Promise<ClaimedExecution[]> {
  const { valkey, router } = deps;
  const index = router.indexKeys(source.partition);
  const { eligible } = index.lane(source.lane);
  for (let offset = 0; ; offset += options.limit) {
    const page = command(source.partition, "zrange", eligible, offset, offset + options.limit - 1);
    const [result] = await valkey.pipelined([page]);
    const ids = listOf(valueOrThrow(result));
    const targets = ids.flatMap((id): Target[] => {
      const parsed = parseExecutionId(id);
      if (!parsed.ok) return [];
      return [{ keys: router.execKeys(parsed.value), index, lane: source.lane }];
    });
    const leased = await claim(deps, await issueGrants(deps, targets), options);
    // If other workers hold the whole page, go on to the next one.
    if (leased.length > 0 || ids.length < options.limit) return readInputs(deps, leased);
  }
}

/** Returns the targets that were granted to this worker. Throws if no grant was issued and a call failed. */
async function issueGrants(
  { valkey, identity }: ClaimDependencies,
  targets: readonly Target[],
): Promise<Target[]> {
  const calls = targets.map((target) => issueClaimGrant(target, identity, GRANT_TTL_MS));
  const results = pairResults(targets, await sendAll(valkey, calls), noResult);
  const granted = results.flatMap(({ item, result }) =>
    result.ok && isGranted("ff_issue_claim_grant", replyOrThrow(result.value)) ? [item] : [],
  );
  // A grant whose reply was lost expires soon, so the other executions can be claimed meanwhile.
  if (granted.length === 0) throwFirstFailure(results);
  return granted;
}

interface LeasedExecution {
  readonly target: Target;
  readonly lease: Lease;
}

interface ClaimCall {
  readonly target: Target;
  readonly request: ClaimRequest;
}

async function claim(
  deps: ClaimDependencies,
  targets: readonly Target[],
  { leaseTtlMs = DEFAULT_LEASE_TTL_MS }: ClaimOptions,
): Promise<LeasedExecution[]> {
  const calls = targets.map((target): ClaimCall => {
    const renewBeforeMs = Math.floor((leaseTtlMs * 2) / 3);
    return {
      target,
      request: { leaseId: randomUUID(), attemptId: randomUUID(), leaseTtlMs, renewBeforeMs },
    };
  });
  const commands = calls.map(({ target, request }) => claimExecution(target, deps.identity, request));
  const results = pairResults(calls, await sendAll(deps.valkey, commands), noResult);
  const replied = results.flatMap(({ item: { target }, result }) => {
    if (!result.ok) return [];
    const reply = replyOrThrow(result.value);
    if (!isGranted("ff_claim_execution", reply)) return [];
    const [leaseId = "", epoch = "", , attemptId = "", attempt = ""] = reply.fields;
    return [{ target, lease: leaseOf(leaseId, epoch, attemptId, attempt) }];
  });
  const unanswered = results
    .filter(({ result }) => !result.ok && !isRecordError(result.error))
    .map(({ item }) => item);
  const leased = [...replied, ...(await recoverClaims(deps, unanswered))];
  if (leased.length === 0) throwFirstFailure(results);
  return leased;
}

/** Finds the claims that were executed although their reply was lost: the record holds the lease id of the request. */
async function recoverClaims(
  { valkey, retryDelaysMs = DEFAULT_RETRY_DELAYS_MS }: ClaimDependencies,
  unanswered: readonly ClaimCall[],
): Promise<LeasedExecution[]> {
  const records = await readWithRetries(
    valkey,
    unanswered.map(({ target: { keys } }) =>
      command(
        keys.partition,
        "hmget",
        keys.core,
        "current_lease_id",
        "current_lease_epoch",
        "current_attempt_id",
        "current_attempt_index",
      ),
    ),
    retryDelaysMs,
  );
  return unanswered.flatMap(({ target, request }, position): LeasedExecution[] => {
    const [leaseId = "", epoch = "", attemptId = "", attempt = ""] = listOf(records[position]).map(fieldText);
    return leaseId === request.leaseId
      ? [{ target, lease: leaseOf(leaseId, epoch, attemptId, attempt) }]
      : [];
  });
}

async function readInputs(
  { valkey, retryDelaysMs = DEFAULT_RETRY_DELAYS_MS }: ClaimDependencies,
  leased: readonly LeasedExecution[],
): Promise<ClaimedExecution[]> {
  const values = await readWithRetries(
    valkey,
    leased.flatMap(({ target: { keys } }) => [
      command(keys.partition, "get", keys.payload),
      command(keys.partition, "get", keys.policy),
    ]),
    retryDelaysMs,
  );
  return leased.map((execution, position) => ({
    ...execution,
    payload: fieldText(values[2 * position]),
    retryPolicyJson: retryPolicyJson(fieldText(values[2 * position + 1])),
  }));
}

/** False if another worker was faster. Throws a RefusedError for any other refusal. */
function isGranted(functionName: string, reply: Reply): reply is Extract<Reply, { kind: "done" }> {
  if (reply.kind === "done") return true;
  if (LOST_RACE_CODES.has(reply.code)) return false;
  throw refusalError(functionName, reply);
}

/** An execution whose record is unreadable is skipped: it would keep every worker from the executions behind it. */
function throwFirstFailure(results: readonly { readonly result: ValkeyResult }[]): void {
  const failed = results.find(({ result }) => !result.ok && !isRecordError(result.error));
  if (failed !== undefined) valueOrThrow(failed.result);
}

function leaseOf(leaseId: string, epoch: string, attemptId: string, attempt: string): Lease {
  const attemptIndex = parseAttemptIndex(attempt);
  if (!attemptIndex.ok) throw new ProtocolError(`ff_claim_execution: ${attemptIndex.error.message}`);
  return { leaseId, epoch, attemptId, attemptIndex: attemptIndex.value };
}

function sendAll(valkey: Pipelines, commands: readonly ValkeyCommand[]): ReturnType<Pipelines["pipelined"]> {
  return commands.length === 0 ? Promise.resolve([]) : valkey.pipelined(commands);
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

/**
 * The retry policy inside a record's policy, as JSON for `ff_fail_execution`. Empty if there is none. Other submitters
 * may store a policy of any shape: anything but an object under `retry_policy` is ignored.
 */
function retryPolicyJson(policyText: string): string {
  const policy = parseJsonObject(policyText)?.retry_policy;
  return isObject(policy) ? JSON.stringify(policy) : "";
}
