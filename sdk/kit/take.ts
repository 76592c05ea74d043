/** Takes the leases of known executions: eligible ones, due retries, and those that another worker lost. */

import { randomUUID } from "node:crypto";
import type { Candidate } from "#sdk/kit/classify.ts";
import type { ClaimedTask, WorkerPorts } from "#sdk/kit/ports.ts";
import { GRANT_TTL_MS, type LeaseCall, recoverLeases } from "#sdk/worker/leasing.ts";
import type { ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";
import { parseAttemptIndex } from "#shared/contract/ids.ts";
import { claimExecution, issueClaimGrant, type Lease, promoteDelayed } from "#shared/contract/ownership.ts";
import { decodeReply } from "#shared/contract/reply.ts";
import { issueReclaimGrant, markLeaseExpiredIfDue, reclaimExecution } from "#shared/contract/upkeep.ts";
import { isRecordError, ProtocolError, ValkeyError } from "#shared/errors.ts";
import { noResult } from "#shared/valkey/batches.ts";

/** Leases last this long, in milliseconds, and are renewed every third of it. */
export const LEASE_TTL_MS = 60_000;
/** How long after the task's own time limit the reconciler ends the attempt: the worker's abort comes first. */
const TIMEOUT_MARGIN_MS = 30_000;
/** How often an execution is reclaimed, unless its policy has `max_reclaim_count`. */
const RECLAIM_LIMIT = 5;
const LIMIT_REACHED = "max_retries_exhausted";

export type ToTake =
  | { readonly kind: "claim"; readonly candidate: Candidate; readonly leaseId: string }
  | {
      readonly kind: "promote";
      readonly candidate: Candidate;
      readonly leaseId: string;
      readonly nowMs: number;
    }
  | {
      readonly kind: "reclaim";
      readonly candidate: Candidate;
      readonly leaseId: string;
      readonly isMarked: boolean;
    };

export type TakeResult =
  | { readonly kind: "claimed"; readonly claimed: ClaimedTask }
  /** It was reclaimed too often, and has just failed. */
  | { readonly kind: "limit_reached" }
  /** Another worker was faster, or the execution has changed. */
  | { readonly kind: "lost_race"; readonly code: string }
  | { readonly kind: "failed"; readonly error: Error };

/**
 * Takes the leases: one result per execution, in order. Takes one round trip, and more if replies were lost: the record then
 * shows whether the call was executed. Never rejects because of one execution.
 */
export async function take(
  ports: Pick<WorkerPorts, "valkey" | "identity" | "leaseTtlMs" | "retryDelaysMs" | "now">,
  wanted: readonly ToTake[],
): Promise<TakeResult[]> {
  if (wanted.length === 0) return [];
  const claimedAt = performance.now();
  const calls = wanted.map((one) => ({ one, commands: commandsOf(ports, one) }));
  const replies = (await ports.valkey.pipelined(calls.flatMap(({ commands }) => commands))).values();
  const answered = calls.map(({ one, commands }) => {
    const own = commands.map(() => replies.next().value ?? noResult());
    return { one, last: own.at(-1) ?? noResult(), grant: own.at(-2) };
  });
  const unanswered = answered.filter(({ last }) => !last.ok && !isRecordError(last.error));
  const recovered = await recover(
    ports,
    unanswered.map(({ one }) => one),
  );
  return answered.map(({ one, last, grant }) => {
    const result = recovered.get(one) ?? interpret(last, grant);
    return "lease" in result
      ? { kind: "claimed", claimed: claimedTask(ports, one, result.lease, claimedAt) }
      : result;
  });
}

/** The grant and the lease are two calls of one pipeline, which run in order. */
function commandsOf(
  { identity, leaseTtlMs = LEASE_TTL_MS }: Pick<WorkerPorts, "identity" | "leaseTtlMs">,
  one: ToTake,
): ValkeyCommand[] {
  const { candidate, leaseId } = one;
  const { target, task } = candidate;
  const attemptId = randomUUID();
  if (one.kind === "reclaim") {
    const { interrupted } = candidate;
    const request = { interrupted, leaseId, leaseTtlMs, attemptId, limit: RECLAIM_LIMIT };
    return [
      ...(one.isMarked ? [] : [markLeaseExpiredIfDue(target)]),
      issueReclaimGrant(target, identity, GRANT_TTL_MS),
      reclaimExecution(target, identity, request),
    ];
  }
  const request = {
    leaseId,
    attemptId,
    leaseTtlMs,
    renewBeforeMs: Math.floor((leaseTtlMs * 2) / 3),
    attemptTimeoutMs: task.timeoutMs + TIMEOUT_MARGIN_MS,
  };
  return [
    ...(one.kind === "promote" ? [promoteDelayed(target, one.nowMs)] : []),
    issueClaimGrant(target, identity, GRANT_TTL_MS),
    claimExecution(target, identity, request),
  ];
}

type Interpreted = Exclude<TakeResult, { kind: "claimed" }> | { readonly lease: Lease };

function interpret(last: ValkeyResult, grant: ValkeyResult | undefined): Interpreted {
  const reply = last.ok ? decodeReply(last.value) : last;
  if (!reply.ok) return { kind: "failed", error: reply.error };
  if (reply.value.kind === "refused") {
    if (reply.value.code === LIMIT_REACHED) return { kind: "limit_reached" };
    // Without a grant, the reason is in the grant's refusal.
    const refusal = grant?.ok ? decodeReply(grant.value) : undefined;
    const code = refusal?.ok && refusal.value.kind === "refused" ? refusal.value.code : reply.value.code;
    return { kind: "lost_race", code };
  }
  const [leaseId = "", epoch = "", , attemptId = "", attempt = ""] = reply.value.fields;
  const attemptIndex = parseAttemptIndex(attempt);
  return attemptIndex.ok
    ? { lease: { leaseId, epoch, attemptId, attemptIndex: attemptIndex.value } }
    : { kind: "failed", error: new ProtocolError(`a claim's reply: ${attemptIndex.error.message}`) };
}

/** Finds out what became of calls whose reply was lost. */
async function recover(
  ports: Pick<WorkerPorts, "valkey" | "identity" | "leaseTtlMs" | "retryDelaysMs">,
  unanswered: readonly ToTake[],
): Promise<Map<ToTake, Interpreted>> {
  const results = new Map<ToTake, Interpreted>();
  if (unanswered.length === 0) return results;
  const calls = unanswered.map((one): LeaseCall => {
    const { target, policy } = one.candidate;
    const [command] = commandsOf(ports, one).slice(-1);
    if (command === undefined) throw new RangeError("a take has at least one command");
    return { target, policy, leaseId: one.leaseId, command };
  });
  try {
    const { leased, ended } = await recoverLeases(ports, calls);
    for (const [at, one] of unanswered.entries()) {
      const target = calls[at]?.target;
      const found = leased.find((lease) => lease.target === target);
      if (found !== undefined) results.set(one, { lease: found.lease });
      else if (target !== undefined && ended.includes(target)) results.set(one, { kind: "limit_reached" });
      else results.set(one, { kind: "failed", error: new ValkeyError("the call was not executed") });
    }
  } catch (error) {
    const failure = new ValkeyError("it is unknown whether the execution was claimed", { cause: error });
    for (const one of unanswered) results.set(one, { kind: "failed", error: failure });
  }
  return results;
}

function claimedTask(
  { now }: Pick<WorkerPorts, "now">,
  { kind, candidate }: ToTake,
  lease: Lease,
  claimedAt: number,
): ClaimedTask {
  const { ready, target, task, flowId, payload, retryPolicyJson, replayCount } = candidate;
  return {
    target,
    lease,
    payload,
    retryPolicyJson,
    task,
    flowId,
    replayCount,
    isReclaim: kind === "reclaim",
    root: ready.root ?? ready.executionId,
    traceparent: ready.traceparent,
    queueWaitMs: ready.sentAtMs === undefined ? undefined : Math.max(0, now() - ready.sentAtMs),
    claimedAt,
  };
}
