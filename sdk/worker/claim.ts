import { randomUUID } from "node:crypto";
import { readPersistently } from "#sdk/worker/read.ts";
import { command, type Pipelines, type ValkeyCommand } from "#shared/contract/command.ts";
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
import { ProtocolError } from "#shared/errors.ts";
import { refusalError, replyOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";

export interface ClaimDependencies {
  readonly valkey: Pipelines;
  readonly router: PartitionRouter;
  readonly identity: WorkerIdentity;
}

/** Where a worker looks for work. */
export interface WorkSource {
  readonly partition: Partition;
  readonly lane: LaneId;
}

export interface ClaimOptions {
  /** How many executions to take at most. */
  readonly limit: number;
  /** Longer than any run: leases are not renewed. 60,000 ms unless given. */
  readonly leaseTtlMs?: number;
}

/** An execution that this worker owns until its lease ends. */
export interface ClaimedExecution {
  readonly target: Target;
  readonly lease: Lease;
  readonly payload: string;
  /** For `ff_fail_execution`; empty: a failure is final. */
  readonly retryPolicyJson: string;
}

const DEFAULT_LEASE_TTL_MS = 60_000;
const GRANT_TTL_MS = 5_000;

/** Refusals that mean: this one is another worker's, or no longer to be had. */
const LOST: ReadonlySet<string> = new Set([
  "active_attempt_exists",
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
 * Takes up to `limit` eligible executions, the highest priority first; none where there are none to be had.
 * Throws a ValkeyError, a ProtocolError, or a RefusedError for a refusal that is no lost race.
 */
export async function claimBatch(
  { valkey, router, identity: worker }: ClaimDependencies,
  place: WorkSource,
  options: ClaimOptions,
): Promise<ClaimedExecution[]> {
  const index = router.indexKeys(place.partition);
  const { eligible } = index.lane(place.lane);
  for (let offset = 0; ; offset += options.limit) {
    const page = command(place.partition, "zrange", eligible, offset, offset + options.limit - 1);
    const [result] = await valkey.pipelined([page]);
    const ids = listOf(valueOrThrow(result));
    const targets = ids.flatMap((id): Target[] => {
      const parsed = parseExecutionId(id);
      if (!parsed.ok) return [];
      return [{ keys: router.execKeys(parsed.value), index, lane: place.lane }];
    });
    const claimed = await claim(valkey, worker, await granted(valkey, worker, targets), options);
    // A page of entries that others hold must not hide the work behind it.
    if (claimed.length > 0 || ids.length < options.limit) return withInput(valkey, claimed);
  }
}

async function granted(
  valkey: Pipelines,
  worker: WorkerIdentity,
  targets: readonly Target[],
): Promise<Target[]> {
  const results = await pipelined(
    valkey,
    targets.map((target) => issueClaimGrant(target, worker, GRANT_TTL_MS)),
  );
  const failure = results.find((result) => !result.ok);
  const taken = targets.filter((_, position) => {
    const result = results[position];
    return result?.ok === true && isOurs("ff_issue_claim_grant", replyOrThrow(result.value));
  });
  // A grant whose reply was lost holds nothing up for long: it expires. The others are worth going on for.
  if (failure !== undefined && taken.length === 0) valueOrThrow(failure);
  return taken;
}

interface Owned {
  readonly target: Target;
  readonly lease: Lease;
}

async function claim(
  valkey: Pipelines,
  worker: WorkerIdentity,
  targets: readonly Target[],
  { leaseTtlMs = DEFAULT_LEASE_TTL_MS }: ClaimOptions,
): Promise<Owned[]> {
  const claims = targets.map((target) => {
    const terms: ClaimRequest = {
      leaseId: randomUUID(),
      attemptId: randomUUID(),
      leaseTtlMs,
      renewBeforeMs: Math.floor(leaseTtlMs / 3),
    };
    return { target, terms };
  });
  const results = await pipelined(
    valkey,
    claims.map(({ target, terms }) => claimExecution(target, worker, terms)),
  );
  const owned: Owned[] = [];
  const unanswered: typeof claims = [];
  for (const [position, { target, terms }] of claims.entries()) {
    const result = results[position];
    if (!result?.ok) {
      unanswered.push({ target, terms });
      continue;
    }
    const reply = replyOrThrow(result.value);
    if (!isOurs("ff_claim_execution", reply)) continue;
    const [leaseId = "", epoch = "", , attemptId = "", attempt = ""] = reply.fields;
    owned.push({ target, lease: leaseOf(leaseId, epoch, attemptId, attempt) });
  }
  const all = [...owned, ...(await recovered(valkey, unanswered))];
  const failure = results.find((result) => !result.ok);
  if (failure !== undefined && all.length === 0) valueOrThrow(failure);
  return all;
}

/** Of claims whose reply was lost, those that were made: the record then holds the lease id we chose. */
async function recovered(
  valkey: Pipelines,
  claims: readonly { readonly target: Target; readonly terms: ClaimRequest }[],
): Promise<Owned[]> {
  const records = await readPersistently(
    valkey,
    claims.map(({ target: { keys } }) =>
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
  );
  return claims.flatMap(({ target, terms }, position): Owned[] => {
    const [leaseId = "", epoch = "", attemptId = "", attempt = ""] = listOf(records[position]).map(fieldText);
    return leaseId === terms.leaseId ? [{ target, lease: leaseOf(leaseId, epoch, attemptId, attempt) }] : [];
  });
}

async function withInput(valkey: Pipelines, owned: readonly Owned[]): Promise<ClaimedExecution[]> {
  const values = await readPersistently(
    valkey,
    owned.flatMap(({ target: { keys } }) => [
      command(keys.partition, "get", keys.payload),
      command(keys.partition, "get", keys.policy),
    ]),
  );
  return owned.map((execution, position) => ({
    ...execution,
    payload: fieldText(values[2 * position]),
    retryPolicyJson: retryPolicyJson(fieldText(values[2 * position + 1])),
  }));
}

function isOurs(functionName: string, reply: Reply): reply is Extract<Reply, { kind: "done" }> {
  if (reply.kind === "done") return true;
  if (LOST.has(reply.code)) return false;
  throw refusalError(functionName, reply);
}

function leaseOf(leaseId: string, epoch: string, attemptId: string, attempt: string): Lease {
  const attemptIndex = parseAttemptIndex(attempt);
  if (!attemptIndex.ok) throw new ProtocolError(`ff_claim_execution: ${attemptIndex.error.message}`);
  return { leaseId, epoch, attemptId, attemptIndex: attemptIndex.value };
}

function pipelined(
  valkey: Pipelines,
  commands: readonly ValkeyCommand[],
): ReturnType<Pipelines["pipelined"]> {
  return commands.length === 0 ? Promise.resolve([]) : valkey.pipelined(commands);
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

/**
 * The retry policy of a record's policy, as JSON for `ff_fail_execution`; empty where the policy has none.
 * Another submitter's policy may have any shape: whatever has no object under `retry_policy` has none.
 */
function retryPolicyJson(policyText: string): string {
  const policy = parseJsonObject(policyText)?.retry_policy;
  return isObject(policy) ? JSON.stringify(policy) : "";
}
