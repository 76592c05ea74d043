/** Takes the leases of known executions: eligible ones, due retries, and those that another worker lost. */

import { randomUUID } from "node:crypto";
import type { Candidate } from "#sdk/kit/classify.ts";
import type { ClaimedTask, WorkerPorts } from "#sdk/kit/ports.ts";
import { GRANT_TTL_MS, type LeaseCall, recoverLeases } from "#sdk/worker/leasing.ts";
import { parseWorkerPolicy } from "#sdk/worker/policy.ts";
import { DEFAULT_RETRY_DELAYS_MS, readWithRetries } from "#sdk/worker/retry.ts";
import { command, type ValkeyCommand, type ValkeyResult } from "#shared/contract/command.ts";
import { parseAttemptIndex } from "#shared/contract/ids.ts";
import {
  claimExecution,
  issueClaimGrant,
  issueGrantAndClaim,
  type Lease,
  promoteDelayed,
} from "#shared/contract/ownership.ts";
import { fieldText } from "#shared/contract/record.ts";
import { decodeReply } from "#shared/contract/reply.ts";
import { pairResults } from "#shared/contract/results.ts";
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
const FUNCTION_MISSING = /^ERR Function not found/;

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

type TakePorts = Pick<WorkerPorts, "valkey" | "identity" | "leaseTtlMs" | "retryDelaysMs" | "now">;

/** Reads per execution, behind the calls of the same pipeline: payload, policy, replay count. */
const READS = 3;

/** Takes leases. It remembers whether the loaded library grants and claims in one call, as Sluice's does. */
export class LeaseTaker {
  readonly #ports: TakePorts;
  #inOneCall = true;

  constructor(ports: TakePorts) {
    this.#ports = ports;
  }

  /**
   * Takes the leases: one result per execution, in order. Takes one round trip, and more if replies were lost: the record then
   * shows whether the call was executed. Never rejects because of one execution.
   */
  async take(wanted: readonly ToTake[]): Promise<TakeResult[]> {
    if (wanted.length === 0) return [];
    const claimedAt = performance.now();
    const answers = await this.#call(wanted);
    const missing = answers.filter(({ last }) => !last.ok && FUNCTION_MISSING.test(last.error.message));
    if (missing.length > 0 && this.#inOneCall) {
      this.#inOneCall = false;
      const again = await this.#call(missing.map(({ one }) => one));
      const latest = new Map(again.map((answer) => [answer.one, answer]));
      return this.#interpretAll(
        answers.map((answer) => latest.get(answer.one) ?? answer),
        claimedAt,
      );
    }
    return this.#interpretAll(answers, claimedAt);
  }

  async #call(wanted: readonly ToTake[]): Promise<Answer[]> {
    const calls = wanted.map((one) => ({
      one,
      commands: [...commandsOf(this.#ports, one, this.#inOneCall), ...readsOf(one)],
    }));
    const replies = (await this.#ports.valkey.pipelined(calls.flatMap(({ commands }) => commands))).values();
    return calls.map(({ one, commands }) => {
      const own = commands.map(() => replies.next().value ?? noResult());
      const last = own.length - READS - 1;
      return { one, last: own[last] ?? noResult(), grant: own[last - 1], reads: own.slice(-READS) };
    });
  }

  async #interpretAll(answers: readonly Answer[], claimedAt: number): Promise<TakeResult[]> {
    const unanswered = answers.filter(({ last }) => !last.ok && !isRecordError(last.error));
    const recovered = await recover(
      this.#ports,
      unanswered.map(({ one }) => one),
      this.#inOneCall,
    );
    return answers.map(({ one, last, grant, reads }): TakeResult => {
      const result = recovered.get(one) ?? interpret(last, grant, reads);
      if (!("lease" in result)) return result;
      return { kind: "claimed", claimed: claimedTask(this.#ports, one, result, claimedAt) };
    });
  }
}

interface Answer {
  readonly one: ToTake;
  /** The reply of the call that takes the lease. */
  readonly last: ValkeyResult;
  /** The reply of the call before it. */
  readonly grant: ValkeyResult | undefined;
  readonly reads: readonly ValkeyResult[];
}

/** If the grant and the lease are two calls of one pipeline, they run in order. */
function commandsOf(
  { identity, leaseTtlMs = LEASE_TTL_MS }: Pick<WorkerPorts, "identity" | "leaseTtlMs">,
  one: ToTake,
  inOneCall: boolean,
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
    ...(inOneCall
      ? [issueGrantAndClaim(target, identity, request)]
      : [issueClaimGrant(target, identity, GRANT_TTL_MS), claimExecution(target, identity, request)]),
  ];
}

function readsOf({ candidate: { target } }: ToTake): ValkeyCommand[] {
  const { partition, core, payload, policy } = target.keys;
  return [
    command(partition, "get", payload),
    command(partition, "get", policy),
    command(partition, "hget", core, "replay_count"),
  ];
}

interface Taken {
  readonly lease: Lease;
  readonly payload: string;
  readonly policy: string;
  readonly replayCount: number;
}

type Interpreted = Exclude<TakeResult, { kind: "claimed" }> | Taken;

function interpret(
  last: ValkeyResult,
  grant: ValkeyResult | undefined,
  reads: readonly ValkeyResult[],
): Interpreted {
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
  if (!attemptIndex.ok) {
    return { kind: "failed", error: new ProtocolError(`a claim's reply: ${attemptIndex.error.message}`) };
  }
  const failed = reads.find((read) => !read.ok);
  if (failed?.ok === false || reads.length < READS) {
    const cause = failed?.ok === false ? failed.error : undefined;
    return { kind: "failed", error: new ValkeyError("reading a claimed execution failed", { cause }) };
  }
  return {
    lease: { leaseId, epoch, attemptId, attemptIndex: attemptIndex.value },
    ...inputOf(reads.map((read) => (read.ok ? read.value : null))),
  };
}

function inputOf([payload, policy, replays]: readonly unknown[]): Omit<Taken, "lease"> {
  return {
    payload: fieldText(payload),
    policy: fieldText(policy),
    replayCount: Number(fieldText(replays)) || 0,
  };
}

/** Finds out what became of calls whose reply was lost. */
async function recover(
  ports: TakePorts,
  unanswered: readonly ToTake[],
  inOneCall: boolean,
): Promise<Map<ToTake, Interpreted>> {
  const results = new Map<ToTake, Interpreted>();
  if (unanswered.length === 0) return results;
  const { valkey, retryDelaysMs = DEFAULT_RETRY_DELAYS_MS } = ports;
  try {
    const calls = unanswered.map((one): LeaseCall => {
      const call = commandsOf(ports, one, inOneCall).at(-1);
      if (call === undefined) throw new RangeError("a take has at least one command");
      return { target: one.candidate.target, policy: "", leaseId: one.leaseId, command: call };
    });
    const { leased, ended } = await recoverLeases(ports, calls);
    const leases = new Map(leased.map(({ target, lease }) => [target, lease]));
    const taken = unanswered.filter(({ candidate }) => leases.has(candidate.target));
    const values = await readWithRetries(valkey, taken.flatMap(readsOf), retryDelaysMs);
    for (const { item, result } of pairResults(taken, [...taken.keys()], () => -1)) {
      const lease = leases.get(item.candidate.target);
      if (lease === undefined) continue;
      results.set(item, { lease, ...inputOf(values.slice(READS * result, READS * (result + 1))) });
    }
    for (const one of unanswered) {
      if (results.has(one)) continue;
      if (ended.includes(one.candidate.target)) results.set(one, { kind: "limit_reached" });
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
  { lease, payload, policy, replayCount }: Taken,
  claimedAt: number,
): ClaimedTask {
  const { ready, target, task, flowId } = candidate;
  return {
    target,
    lease,
    payload,
    retryPolicyJson: parseWorkerPolicy(policy).retryPolicyJson || task.retryPolicyJson,
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
