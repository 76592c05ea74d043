import { isDeepStrictEqual } from "node:util";
import type { ClaimedExecution } from "#sdk/worker/claim.ts";
import { LEASE_LOST_CODES, type WorkerClient } from "#sdk/worker/leasing.ts";
import { publishCompletions } from "#sdk/worker/publish.ts";
import { DEFAULT_RETRY_DELAYS_MS, retryFailed } from "#sdk/worker/retry.ts";
import { command, type Pipelines, type ValkeyCommand } from "#shared/contract/command.ts";
import type { ExecutionId } from "#shared/contract/ids.ts";
import { completeExecution, failExecution, type WorkerIdentity } from "#shared/contract/ownership.ts";
import { fieldText, isTerminalOutcome, type TerminalOutcome } from "#shared/contract/record.ts";
import { decodeReply } from "#shared/contract/reply.ts";
import { pairResults } from "#shared/contract/results.ts";
import { messageOf, NotReplicatedError, ProtocolError, ValkeyError } from "#shared/errors.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import { noResult, refusalError } from "#shared/valkey/batches.ts";

/** The outcome that a handler reports for one run of an execution. */
export type RunOutcome =
  /** `result` is stored in the execution's record. Edges with data passing copy it to the downstream's payload. */
  | { readonly outcome: "success"; readonly result: string | Buffer }
  /** `reason` is stored in the record of the attempt. */
  | { readonly outcome: "failed"; readonly reason: string };

/** A claimed execution that has been run, with its outcome. */
export interface FinishedRun {
  readonly claimed: ClaimedExecution;
  readonly run: RunOutcome;
}

/**
 * How an execution left the worker:
 * - `completed`, `failed`: it ended, and its completion was sent if it belongs to a flow.
 * - `retry_scheduled`: the run failed, and the retry policy schedules another attempt.
 * - `lease_lost`: this worker no longer held the lease. It reported nothing.
 */
export type FinishStatus = "completed" | "failed" | "retry_scheduled" | "lease_lost";

/** An execution that a worker has run, and how it left the worker. */
export interface WorkedExecution {
  readonly id: ExecutionId;
  readonly status: FinishStatus;
}

/** What writing outcomes needs. */
export interface FinishDependencies extends WorkerClient {
  /**
   * The connection that writes outcomes; `valkey` by default. With `waitReplicas` of `connect`, an outcome counts as
   * written, and its completion is published, once enough replicas have confirmed it.
   */
  readonly replicated?: Pipelines;
  readonly completions: CompletionPublisher;
}

/** The state of an execution after its outcome was written. */
export type WrittenState =
  | { readonly kind: "ended"; readonly outcome: TerminalOutcome }
  | { readonly kind: "retry_scheduled" }
  | { readonly kind: "lease_lost" };

type Failure = { readonly ok: false; readonly error: Error };
export type WriteResult = { readonly ok: true; readonly state: WrittenState } | Failure;

const FAILURE_CATEGORY = "task_failed";
const NOT_ACTIVE = "execution_not_active";

/**
 * Writes the outcome of each run, then publishes the completion of each execution that ended and belongs to a flow.
 * Returns one status per run, in order.
 *
 * Failed calls are retried with backoff. If a reply is lost, the record shows whether the call was executed, so an
 * outcome is written once. A failure of one execution does not keep the others from being written and published.
 *
 * @throws ValkeyError if an outcome could not be written, or a flow id not read, after all retries.
 * @throws NotReplicatedError if an outcome was written, but too few replicas confirmed it after all retries. Its completion
 * was not published: call again with the same runs, or leave it to the reconciler.
 * @throws PublishError if the publisher did not accept a completion after three attempts.
 * @throws InvalidRecordError if a record holds a malformed flow id.
 */
export async function finishBatch(
  deps: FinishDependencies,
  finished: readonly FinishedRun[],
): Promise<WorkedExecution[]> {
  const written = await writeRuns(deps, finished);
  const [publishFailure] = await publishCompletions(
    deps,
    written.flatMap(({ item, result }) =>
      result.ok && result.state.kind === "ended"
        ? [{ keys: item.claimed.target.keys, outcome: result.state.outcome }]
        : [],
    ),
  );
  if (publishFailure !== undefined) throw publishFailure;
  return written.map(({ item, result }) => {
    const { id } = item.claimed.target.keys;
    if (result.ok) return { id, status: statusOf(result.state) };
    if (result.error instanceof NotReplicatedError) {
      throw new NotReplicatedError(`the outcome of ${id}: ${result.error.message}`, { cause: result.error });
    }
    throw new ValkeyError(`could not write the outcome of ${id}: ${messageOf(result.error)}`, {
      cause: result.error,
    });
  });
}

/**
 * Writes the outcome of each run, with retries: one result per run, in order. Publishes nothing. Never rejects because of one
 * run.
 */
export function writeRuns(
  deps: Omit<FinishDependencies, "completions">,
  finished: readonly FinishedRun[],
): Promise<{ readonly item: FinishedRun; readonly result: WriteResult }[]> {
  return retryFailed<FinishedRun, WriteResult>(
    finished,
    deps.retryDelaysMs ?? DEFAULT_RETRY_DELAYS_MS,
    (open, isRetry) => (isRetry ? writeUnwritten(deps, open) : writeOutcomes(deps, open, isRetry)),
    () => failure(new ValkeyError("the outcome was not written")),
  );
}

/** Calls the function that ends each run. */
async function writeOutcomes(
  { valkey, replicated = valkey, identity }: Omit<FinishDependencies, "completions">,
  runs: readonly FinishedRun[],
  isRetry: boolean,
): Promise<WriteResult[]> {
  const replies = await replicated.pipelined(runs.map((run) => callFor(identity, run)));
  return pairResults(runs, replies, noResult).map(({ item, result }) =>
    result.ok ? interpretReply(item, result.value, isRetry) : result,
  );
}

function callFor(identity: WorkerIdentity, { claimed, run }: FinishedRun): ValkeyCommand {
  const { target, lease } = claimed;
  return run.outcome === "success"
    ? completeExecution(target, identity, lease, run.result)
    : failExecution(target, identity, lease, {
        reason: run.reason,
        category: FAILURE_CATEGORY,
        retryPolicyJson: claimed.retryPolicyJson,
      });
}

function interpretReply({ run, claimed }: FinishedRun, value: unknown, isRetry: boolean): WriteResult {
  const name = run.outcome === "success" ? "ff_complete_execution" : "ff_fail_execution";
  const decoded = decodeReply(value);
  if (!decoded.ok) return decoded;
  const reply = decoded.value;
  if (reply.kind === "refused") {
    // The first call may have been executed after the record was read: the next retry reads it again.
    if (isRetry && reply.code === NOT_ACTIVE) return failure(new ValkeyError("the execution has just ended"));
    // An earlier call of `finishBatch` wrote this outcome with this lease.
    if (
      reply.code === NOT_ACTIVE &&
      isDeepStrictEqual(reply.detail.slice(0, 2), [run.outcome, claimed.lease.epoch])
    ) {
      return { ok: true, state: { kind: "ended", outcome: run.outcome } };
    }
    return LEASE_LOST_CODES.has(reply.code)
      ? { ok: true, state: { kind: "lease_lost" } }
      : failure(refusalError(name, reply));
  }
  switch (reply.fields[0]) {
    case "completed":
      return { ok: true, state: { kind: "ended", outcome: "success" } };
    case "terminal_failed":
      return { ok: true, state: { kind: "ended", outcome: "failed" } };
    case "retry_scheduled":
      return { ok: true, state: { kind: "retry_scheduled" } };
    default:
      return failure(new ProtocolError(`${name} replied ${JSON.stringify(reply.fields)}`));
  }
}

/**
 * Reads the records of runs whose call failed, and repeats the calls that were not executed. Reads over the connection for
 * outcomes: it also waits for the replication of the writes that the records show.
 */
async function writeUnwritten(
  deps: Omit<FinishDependencies, "completions">,
  runs: readonly FinishedRun[],
): Promise<(WriteResult | undefined)[]> {
  const fields = ["lifecycle_phase", "terminal_outcome", "attempt_state", "current_lease_epoch"];
  const { valkey, replicated = valkey } = deps;
  const replies = await replicated.pipelined(
    runs.map(({ claimed: { target } }) =>
      command(target.keys.partition, "hmget", target.keys.core, ...fields),
    ),
  );
  const checked = pairResults(runs, replies, noResult).map(({ item, result }) => ({
    run: item,
    found: result.ok ? stateInRecord(item, result.value) : result,
  }));
  const unwritten = checked.flatMap(({ run, found }) => (found === "active" ? [run] : []));
  const rewritten = unwritten.length === 0 ? [] : await writeOutcomes(deps, unwritten, true);
  const results = new Map(unwritten.map((run, position) => [run, rewritten[position]]));
  return checked.map(({ run, found }) => (found === "active" ? results.get(run) : found));
}

/** `active`: this worker still holds the lease, so its call was not executed. */
function stateInRecord({ claimed }: FinishedRun, record: unknown): WriteResult | "active" {
  const fields = Array.isArray(record) ? record.map(fieldText) : [];
  const [phase = "", outcome = "", attempt = "", epoch = ""] = fields;
  // Every claim raises the epoch: a different one means that another worker claimed the execution.
  if (epoch !== claimed.lease.epoch) return { ok: true, state: { kind: "lease_lost" } };
  if (phase === "active") return "active";
  if (isTerminalOutcome(outcome)) return { ok: true, state: { kind: "ended", outcome } };
  return {
    ok: true,
    state: { kind: attempt === "pending_retry_attempt" ? "retry_scheduled" : "lease_lost" },
  };
}

function statusOf(state: WrittenState): FinishStatus {
  if (state.kind !== "ended") return state.kind;
  return state.outcome === "success" ? "completed" : "failed";
}

function failure(error: Error): Failure {
  return { ok: false, error };
}
