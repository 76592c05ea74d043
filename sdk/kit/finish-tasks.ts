/** Writes the outcomes of runs, updates the children of the executions that ended, and announces retries. */

import type { ClaimedTask, WorkerPorts } from "#sdk/kit/ports.ts";
import type { TaskOutcome } from "#sdk/kit/run-task.ts";
import { writeRuns } from "#sdk/worker/finish.ts";
import { command } from "#shared/contract/command.ts";
import type { ExecutionId, FlowId } from "#shared/contract/ids.ts";
import type { TerminalOutcome } from "#shared/contract/record.ts";
import { pairResults } from "#shared/contract/results.ts";
import { PublishError, ValkeyError } from "#shared/errors.ts";
import type { SendResult } from "#shared/queue/batch-sender.ts";
import { type AnnounceResult, announceUnmarked } from "#shared/ready/announce.ts";
import { noResult } from "#shared/valkey/batches.ts";

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
  const written = (await writeRuns(ports, runs)).map(({ result }) => result);
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
 */
export async function updateChildren(
  ports: WorkerPorts,
  ended: readonly EndedTask[],
  deadlineMs: number,
): Promise<SendResult[]> {
  if (ended.length === 0) return [];
  const own = ports.dispatch === undefined || deadlineMs - ports.now() < MIN_DISPATCH_MS ? [] : ended;
  const { small, childless } = await countEdges(ports, own);
  const dispatched = new Set<EndedTask>(childless);
  if (ports.dispatch !== undefined && small.length > 0) {
    const results = await ports.dispatch(
      small.map(({ executionId, flowId, traceparent }) => ({
        executionId,
        flowId,
        depth: 0,
        generation: 0,
        root: executionId,
        traceparent,
      })),
      deadlineMs,
    );
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

/** Those with few enough edges, and those without any, which have no children to update. */
async function countEdges(
  ports: WorkerPorts,
  ended: readonly EndedTask[],
): Promise<{ readonly small: EndedTask[]; readonly childless: EndedTask[] }> {
  const counts = await ports.valkey.pipelined(
    ended.map(({ executionId, flowId }) => {
      const { partition } = ports.router.execKeys(executionId);
      return command(partition, "scard", ports.router.flowKeys(flowId, partition).outgoing(executionId));
    }),
  );
  const small: EndedTask[] = [];
  const childless: EndedTask[] = [];
  for (const { item, result } of pairResults(ended, counts, noResult)) {
    const edges = result.ok ? Number(result.value) : Number.NaN;
    if (edges === 0) childless.push(item);
    else if (edges <= MAX_DISPATCH_EDGES) small.push(item);
  }
  return { small, childless };
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
