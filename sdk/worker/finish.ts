import type { ClaimedExecution } from "#sdk/worker/claim.ts";
import { readPersistently } from "#sdk/worker/read.ts";
import { command, type Pipelines, type ValkeyCommand } from "#shared/contract/command.ts";
import { parseFlowId } from "#shared/contract/ids.ts";
import type { Completion } from "#shared/contract/message.ts";
import { completeExecution, failExecution, type WorkerIdentity } from "#shared/contract/ownership.ts";
import { fieldText, isTerminalOutcome, type TerminalOutcome } from "#shared/contract/record.ts";
import { InvalidRecordError, messageOf, ProtocolError, ValkeyError } from "#shared/errors.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import { refusalError, replyOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";

/** What a run came to. */
export type RunOutcome =
  | { readonly outcome: "success"; readonly result: string | Buffer }
  | { readonly outcome: "failed"; readonly reason: string };

export interface FinishedRun {
  readonly claimed: ClaimedExecution;
  readonly run: RunOutcome;
}

/** What became of a finished run; `lost`: the lease had gone to somebody else, and nothing was written. */
export type FinishStatus = "completed" | "failed" | "retry_scheduled" | "lost";

export interface FinishDependencies {
  readonly valkey: Pipelines;
  readonly completions: CompletionPublisher;
  readonly identity: WorkerIdentity;
}

type Standing =
  | { readonly kind: "ended"; readonly outcome: TerminalOutcome }
  | { readonly kind: "retry_scheduled" }
  | { readonly kind: "lost" };

const TRIES = 3;
const FAILURE_CATEGORY = "task_failed";
const LOST: ReadonlySet<string> = new Set([
  "execution_not_active",
  "execution_not_found",
  "lease_expired",
  "lease_revoked",
  "stale_lease",
]);

/**
 * Writes what the runs came to, and then sends the completion of each execution that has ended and belongs
 * to a flow. Conclusions are in the runs' order.
 *
 * Where a reply is lost, the record says whether the call was made, and the completion is sent all the same.
 * Throws a ValkeyError or a PublishError when it could not be done in three tries; what else could be
 * finished and sent then is.
 */
export async function finishBatch(
  deps: FinishDependencies,
  finished: readonly FinishedRun[],
): Promise<FinishStatus[]> {
  const standings = new Map<FinishedRun, Standing>();
  let failure: unknown;
  for (let attempt = 0; attempt < TRIES && standings.size < finished.length; attempt += 1) {
    try {
      let open = finished.filter((one) => !standings.has(one));
      if (attempt > 0) open = await settleFromRecords(deps.valkey, open, standings);
      if (open.length > 0) await callAll(deps, open, standings);
    } catch (error) {
      // Kept for later: what has ended must be told of, whatever became of the rest.
      failure = error;
    }
  }
  await sendAll(deps, finished, standings);
  return finished.map((one) => {
    const standing = standings.get(one);
    if (standing !== undefined) return conclusionOf(standing);
    const { id } = one.claimed.target.keys;
    throw new ValkeyError(`the end of ${id} could not be written: ${messageOf(failure)}`, { cause: failure });
  });
}

/** Calls the function of every run. What failed or made no sense stays open, and one of its errors is thrown. */
async function callAll(
  { valkey, identity }: FinishDependencies,
  open: readonly FinishedRun[],
  standings: Map<FinishedRun, Standing>,
): Promise<void> {
  const results = await valkey.pipelined(open.map((one) => callOf(identity, one)));
  const errors: unknown[] = [];
  for (const [position, one] of open.entries()) {
    try {
      standings.set(one, interpret(one, valueOrThrow(results[position])));
    } catch (error) {
      errors.push(error);
    }
  }
  if (errors.length > 0) throw errors[0];
}

function callOf(identity: WorkerIdentity, { claimed, run }: FinishedRun): ValkeyCommand {
  const { target, lease } = claimed;
  return run.outcome === "success"
    ? completeExecution(target, identity, lease, run.result)
    : failExecution(target, identity, lease, {
        reason: run.reason,
        category: FAILURE_CATEGORY,
        retryPolicyJson: claimed.retryPolicyJson,
      });
}

function interpret({ run }: FinishedRun, value: unknown): Standing {
  const name = run.outcome === "success" ? "ff_complete_execution" : "ff_fail_execution";
  const reply = replyOrThrow(value);
  if (reply.kind === "refused") {
    if (LOST.has(reply.code)) return { kind: "lost" };
    throw refusalError(name, reply);
  }
  switch (reply.fields[0]) {
    case "completed":
      return { kind: "ended", outcome: "success" };
    case "terminal_failed":
      return { kind: "ended", outcome: "failed" };
    case "retry_scheduled":
      return { kind: "retry_scheduled" };
    default:
      throw new ProtocolError(`${name} replied ${JSON.stringify(reply.fields)}`);
  }
}

/** Settles what an unanswered call has done after all; returns what is still ours to finish. */
async function settleFromRecords(
  valkey: Pipelines,
  open: readonly FinishedRun[],
  standings: Map<FinishedRun, Standing>,
): Promise<FinishedRun[]> {
  const fields = ["lifecycle_phase", "terminal_outcome", "attempt_state", "current_lease_epoch"];
  const records = await readPersistently(
    valkey,
    open.map(({ claimed: { target } }) =>
      command(target.keys.partition, "hmget", target.keys.core, ...fields),
    ),
  );
  return open.filter((one, position) => {
    const record = records[position];
    const [phase = "", outcome = "", attempt = "", epoch = ""] = Array.isArray(record)
      ? record.map(fieldText)
      : [];
    // Every claim raises the epoch, so an unchanged one means that nobody has had it since.
    if (epoch !== one.claimed.lease.epoch) standings.set(one, { kind: "lost" });
    else if (phase === "active") return true;
    else if (isTerminalOutcome(outcome)) standings.set(one, { kind: "ended", outcome });
    else if (attempt === "pending_retry_attempt") standings.set(one, { kind: "retry_scheduled" });
    else standings.set(one, { kind: "lost" });
    return false;
  });
}

/**
 * The flow id is read now and not at the claim: an execution may have been claimed before its submitter
 * made it a member of its flow.
 */
async function sendAll(
  { valkey, completions }: FinishDependencies,
  finished: readonly FinishedRun[],
  standings: ReadonlyMap<FinishedRun, Standing>,
): Promise<void> {
  const ended = finished.flatMap((one) => {
    const standing = standings.get(one);
    return standing?.kind === "ended" ? [{ keys: one.claimed.target.keys, outcome: standing.outcome }] : [];
  });
  const flowIds = await readPersistently(
    valkey,
    ended.map(({ keys }) => command(keys.partition, "hget", keys.core, "flow_id")),
  );
  let unsent = ended.flatMap(({ keys: { id }, outcome }, position): Completion[] => {
    const text = fieldText(flowIds[position]);
    if (text === "") return [];
    const flowId = parseFlowId(text);
    if (!flowId.ok) throw new InvalidRecordError(`the record of ${id}: ${flowId.error.message}`);
    return [{ executionId: id, flowId: flowId.value, outcome, depth: 0, root: id }];
  });
  for (let attempt = 1; unsent.length > 0; attempt += 1) {
    const sent = await completions.send(unsent);
    const refusal = sent.find((result) => !result.ok);
    if (refusal === undefined) return;
    if (attempt === TRIES) throw refusal.error;
    unsent = unsent.filter((_, position) => sent[position]?.ok !== true);
  }
}

function conclusionOf(standing: Standing): FinishStatus {
  if (standing.kind !== "ended") return standing.kind;
  return standing.outcome === "success" ? "completed" : "failed";
}
