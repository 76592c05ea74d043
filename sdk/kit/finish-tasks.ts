/** Writes the outcomes of runs, updates the children of the executions that ended, and announces retries. */

import type { ClaimedTask, WorkerPorts } from "#sdk/kit/ports.ts";
import type { TaskOutcome } from "#sdk/kit/run-task.ts";
import { writeRuns } from "#sdk/worker/finish.ts";
import type { ExecutionId, FlowId } from "#shared/contract/ids.ts";
import type { CompletionEvent } from "#shared/contract/message.ts";
import type { TerminalOutcome } from "#shared/contract/record.ts";
import { pairResults } from "#shared/contract/results.ts";
import type { RecordState } from "#shared/dispatch/records.ts";
import { PublishError, ValkeyError } from "#shared/errors.ts";
import type { SendResult } from "#shared/queue/batch-sender.ts";
import { type AnnounceResult, announceUnmarked } from "#shared/ready/announce.ts";

export interface FinishedTask {
  readonly claimed: ClaimedTask;
  readonly outcome: TaskOutcome;
  /** When the process must answer: milliseconds since the epoch. */
  readonly deadlineMs: number;
}

export type FinishResult =
  | { readonly kind: "completed" | "failed" | "retry_scheduled" | "lease_lost" }
  /** The outcome is written or not, or the children are not updated: the message must be delivered again. */
  | { readonly kind: "error"; readonly error: Error };

/** An execution that has ended, and whose children must be updated. */
export interface EndedTask {
  readonly executionId: ExecutionId;
  readonly flowId: FlowId;
  readonly outcome: TerminalOutcome;
  readonly traceparent: string | undefined;
}

/** Below this much time, in milliseconds, the children are left to the dispatch function. */
const MIN_DISPATCH_MS = 10_000;
/** With more edges than this, the children are left to the dispatch function. */
const MAX_DISPATCH_EDGES = 2_500;

/** Finishes runs: one result per run, in order. Never rejects because of one run. */
export async function finishTasks(
  ports: WorkerPorts,
  finished: readonly FinishedTask[],
): Promise<FinishResult[]> {
  const runs = finished.map(({ claimed, outcome }) => ({
    claimed: outcome.outcome === "failed" && outcome.isFinal ? { ...claimed, retryPolicyJson: "" } : claimed,
    run: outcome,
  }));
  const writing = writeRuns(ports, runs);
  // Sent behind the calls that end the executions, on the same connection: both share a round trip.
  const reading = ports.dispatch?.read(
    finished.flatMap(({ claimed: { target, flowId, traceparent } }) =>
      flowId === undefined ? [] : [eventOf({ executionId: target.keys.id, flowId, traceparent })],
    ),
  );
  const written = (await writing).map(({ result }) => result);
  const states = await reading;
  const results = finished.map((run, at) => ({ run, written: written[at] ?? notWritten() }));
  const ended = results.flatMap(({ run, written: { ok, ...rest } }) => {
    const state = ok && "state" in rest ? rest.state : undefined;
    const { claimed } = run;
    if (state?.kind !== "ended" || claimed.flowId === undefined) return [];
    const { traceparent, flowId, target } = claimed;
    return [{ run, ended: { executionId: target.keys.id, flowId, outcome: state.outcome, traceparent } }];
  });
  const retried = results.flatMap(({ run, written: result }) =>
    result.ok && result.state.kind === "retry_scheduled" ? [run] : [],
  );
  const deadlineMs = Math.min(...finished.map((one) => one.deadlineMs));
  const [updated, announced] = await Promise.all([
    updateChildren(
      ports,
      ended.map((one) => one.ended),
      deadlineMs,
      states,
    ),
    announceRetries(ports, retried, deadlineMs),
  ]);
  const failures = new Map([
    ...pairResults(ended, updated, noAnswer).flatMap(({ item, result }) =>
      result.ok ? [] : [[item.run, result.error] as const],
    ),
    ...retried.flatMap((run, at) => {
      const result = announced[at];
      return result?.kind === "failed" ? [[run, result.error] as const] : [];
    }),
  ]);
  return results.map(({ run, written: result }): FinishResult => {
    if (!result.ok) return { kind: "error", error: result.error };
    const error = failures.get(run);
    if (error !== undefined) return { kind: "error", error };
    if (result.state.kind !== "ended") return result.state;
    return { kind: result.state.outcome === "success" ? "completed" : "failed" };
  });
}

/**
 * Updates the children of ended executions: in this process, or by sending the completions to the dispatch function if the
 * time is short, if there are many edges, or if the dispatch in this process failed. One result per execution, in order:
 * why the children are neither updated nor left to the dispatch function, if so.
 *
 * @param states The records and edges, if the caller has read them.
 */
export async function updateChildren(
  ports: WorkerPorts,
  ended: readonly EndedTask[],
  deadlineMs: number,
  states?: ReadonlyMap<ExecutionId, RecordState>,
): Promise<SendResult[]> {
  if (ended.length === 0) return [];
  const { dispatch } = ports;
  const dispatched = new Set<EndedTask>();
  if (dispatch !== undefined && deadlineMs - ports.now() >= MIN_DISPATCH_MS) {
    const known = endedOnly(states ?? (await dispatch.read(ended.map(eventOf))));
    const small: EndedTask[] = [];
    for (const one of ended) {
      const edges = edgesOf(known.get(one.executionId));
      if (edges === 0) dispatched.add(one);
      else if (edges <= MAX_DISPATCH_EDGES) small.push(one);
    }
    const results = small.length === 0 ? [] : await dispatch.dispatch(small.map(eventOf), known, deadlineMs);
    for (const [at, one] of small.entries()) {
      const result = results[at];
      if (result !== undefined && result.kind !== "failed") dispatched.add(one);
      else {
        const reason = result?.kind === "failed" ? result.errors[0].message : "no result";
        ports.log.warn("children not updated here, sending the completion", {
          execution_id: one.executionId,
          reason,
        });
      }
    }
  }
  const left = ended.filter((one) => !dispatched.has(one));
  const sent = await ports.completions.send(
    left.map(({ executionId, flowId, outcome, traceparent }) => ({
      executionId,
      flowId,
      outcome,
      depth: 0,
      root: executionId,
      ...(traceparent === undefined ? {} : { traceparent }),
    })),
    deadlineMs,
  );
  const results = new Map(pairResults(left, sent, noAnswer).map(({ item, result }) => [item, result]));
  return ended.map((one) => results.get(one) ?? (dispatched.has(one) ? { ok: true } : noAnswer()));
}

function eventOf({ executionId, flowId, traceparent }: Omit<EndedTask, "outcome">): CompletionEvent {
  return { executionId, flowId, depth: 0, generation: 0, root: executionId, traceparent };
}

/** A record that was read before the call that ended the execution is read again. */
function endedOnly(states: ReadonlyMap<ExecutionId, RecordState>): Map<ExecutionId, RecordState> {
  return new Map([...states].filter(([, { kind }]) => kind === "ended"));
}

/** The number of outgoing edges; 1 if it is unknown, so that the dispatcher reads it. */
function edgesOf(state: RecordState | undefined): number {
  return state?.kind === "ended" ? state.edges.reduce((sum, { ids }) => sum + ids.length, 0) : 1;
}

/**
 * Sends a delayed ready message for each scheduled retry, and marks it, if its lane has a queue and the delay is short enough. The
 * reconciler announces a later one when it makes the execution eligible.
 */
async function announceRetries(
  ports: WorkerPorts,
  retried: readonly FinishedTask[],
  deadlineMs: number,
): Promise<AnnounceResult[]> {
  const { ready } = ports;
  if (ready === undefined || retried.length === 0) return [];
  const { results, markError } = await announceUnmarked(
    { ...ports, ready },
    retried.map(({ claimed: { target, flowId, root, traceparent } }) => ({
      executionId: target.keys.id,
      flowId,
      root,
      ...(traceparent === undefined ? {} : { traceparent }),
    })),
    deadlineMs,
  );
  // The retries are announced. Without a mark, the reconciler may announce one again when it makes it eligible.
  if (markError !== undefined) {
    ports.log.warn("marks of retries not written", { reason: markError.message });
  }
  return results;
}

function notWritten(): { readonly ok: false; readonly error: Error } {
  return { ok: false, error: new ValkeyError("the outcome was not written") };
}

function noAnswer(): SendResult {
  return { ok: false, error: new PublishError("the children were not updated") };
}
