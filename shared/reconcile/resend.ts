/**
 * Sends completions that dispatch missed to the queue again, so that dispatch processes them.
 *
 * A sweep first reads, and then sends: only the whole picture tells a lost completion from a late one (`ResendPlan`).
 */

import { command } from "#shared/contract/command.ts";
import { partitionOf } from "#shared/contract/ids.ts";
import type { Completion } from "#shared/contract/message.ts";
import { pairResults } from "#shared/contract/results.ts";
import { isRecordError, messageOf } from "#shared/errors.ts";
import type { Backlog } from "#shared/queue/backlog.ts";
import { failed, type Outcome, PROCESSED, pipelineEach } from "#shared/reconcile/outcome.ts";
import { type BlockedExecution, readBlocked } from "#shared/reconcile/read-blocked.ts";
import { parseMark, ResendPlan } from "#shared/reconcile/resend-policy.ts";
import { SweepStopped, type TaskRun } from "#shared/reconcile/run.ts";
import { type MissedCompletion, markKey, sendCompletions } from "#shared/reconcile/send.ts";
import {
  type ExecutionUpstreams,
  readUpstreams,
  type Upstream,
  upstreamKey,
} from "#shared/reconcile/upstreams.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { chunked } from "#shared/valkey/batches.ts";

/** Unresolved edges read together. An execution with more of them is read alone, with all its edges. */
const EDGES_PER_READ = 10_000;
/** Completions sent between two checks of the deadline. */
const COMPLETIONS_PER_SEND = 500;
/** Upstreams remembered as counted. Beyond that, an upstream may count twice, or be sent twice. */
const MAX_REMEMBERED = 200_000;

/** Collects missed completions while a run reads, and sends them at its end, each at most once. */
export class CompletionResender {
  readonly #run: TaskRun;
  readonly #plan: ResendPlan<MissedCompletion>;
  readonly #seen = new Set<string>();
  /** What remains to send; undefined before it is selected. */
  #chunks: MissedCompletion[][] | undefined;
  #sent = 0;
  #failures = 0;

  constructor(run: TaskRun) {
    this.#run = run;
    this.#plan = new ResendPlan(run.ports.graceMs);
  }

  /**
   * Collects every upstream that has ended and that one of the executions still waits for. Returns one outcome per
   * execution, in their order: failed if an edge, an upstream or a mark could not be read. Throws SweepStopped.
   */
  async collectFor(executions: readonly BlockedExecution[]): Promise<Outcome[]> {
    const outcomes: Outcome[] = [];
    for (const chunk of chunked(executions, ({ unresolved }) => unresolved, EDGES_PER_READ)) {
      await this.#run.beginStep();
      const reads = await readConsistently(this.#run, chunk);
      for (const read of reads) recordAge(this.#run, read);
      const failures = await this.#collect(new Set(reads.flatMap((read) => read.upstreams)));
      for (const read of reads) outcomes.push(outcomeOf(read, failures));
    }
    return outcomes;
  }

  /**
   * Sends the next part of what the plan selects. Returns whether there is more. Throws SweepStopped if the lease is lost.
   */
  async sendNext(): Promise<boolean> {
    if (this.#plan.dueCount === 0) return false;
    this.#chunks ??= await this.#select();
    const chunk = this.#chunks.shift();
    if (chunk === undefined || !(await hasTimeToSend(this.#run))) {
      this.#run.count(METRICS.completionsDeferred, this.#plan.dueCount - this.#sent - this.#failures);
      return false;
    }
    const outcomes = await sendCompletions(this.#run, chunk);
    const sent = outcomes.filter(({ ok }) => ok).length;
    this.#sent += sent;
    this.#failures += chunk.length - sent;
    this.#run.count(METRICS.completionsRepaired, sent);
    return true;
  }

  async #select(): Promise<MissedCompletion[][]> {
    const selected = this.#plan.select(await countQueued(this.#run, this.#run.ports.backlog));
    this.#run.beginSending();
    return [...chunked(selected, () => 1, COMPLETIONS_PER_SEND)];
  }

  /** Adds upstreams to the plan, each once per run. Returns the errors of those whose marks could not be read. */
  async #collect(upstreams: ReadonlySet<Upstream>): Promise<ReadonlyMap<string, Error>> {
    const failures = new Map<string, Error>();
    const pastGrace: (Upstream & { readonly completion: Completion; readonly end: string })[] = [];
    for (const upstream of upstreams) {
      const { id, flowId, state } = upstream;
      if (state.kind !== "ended" || this.#seen.has(upstreamKey(upstream))) continue;
      if (this.#run.isPastGrace(state.endedAtMs)) {
        const completion = { executionId: id, flowId, outcome: state.outcome, depth: 0, root: id };
        pastGrace.push({ ...upstream, completion, end: state.end });
      } else {
        this.#remember(upstream, state.endedAtMs);
      }
    }
    const marks = await pipelineEach(this.#run.ports.valkey, pastGrace, ({ completion }) =>
      command(partitionOf(completion.executionId), "get", markKey(this.#run, completion)),
    );
    for (const { item, result } of marks) {
      if (!result.ok && !isRecordError(result.error)) {
        failures.set(upstreamKey(item), result.error);
        continue;
      }
      const { completion, end, state } = item;
      const endedAtMs = state.kind === "ended" ? state.endedAtMs : undefined;
      // A mark of another type counts as none; the next one overwrites it.
      const mark = result.ok && typeof result.value === "string" ? parseMark(result.value) : undefined;
      this.#remember(item, endedAtMs);
      this.#plan.add({ completion, end, endedAtMs, mark }, this.#run.serverNowMs);
    }
    return failures;
  }

  #remember(upstream: Upstream, endedAtMs: number | undefined): void {
    if (this.#seen.size >= MAX_REMEMBERED) this.#seen.clear();
    this.#seen.add(upstreamKey(upstream));
    this.#plan.count(endedAtMs, this.#run.serverNowMs);
  }
}

/** The messages in a queue; undefined, with a warning, if they cannot be counted. */
export async function countQueued(run: TaskRun, backlog: Backlog): Promise<number | undefined> {
  try {
    return await backlog.count();
  } catch (error) {
    run.warn("message counts of the queue unknown, resending without them", { reason: messageOf(error) });
    return undefined;
  }
}

/** Begins a step that sends. Returns false if the time is up. Throws SweepStopped if the lease is lost. */
export async function hasTimeToSend(run: TaskRun): Promise<boolean> {
  try {
    await run.beginSendingStep();
    return true;
  } catch (error) {
    if (error instanceof SweepStopped && error.reason === "out_of_time") return false;
    throw error;
  }
}

/**
 * Reads the upstreams of the executions. Executions with invalid edges are read again before the edges are reported: an
 * edge may have been resolved between the read of the unresolved edges and the read of its record.
 */
async function readConsistently(
  run: TaskRun,
  executions: readonly BlockedExecution[],
): Promise<ExecutionUpstreams[]> {
  const reads = pairResults(executions, await readUpstreams(run, executions), noRead);
  const doubtful = reads.filter(({ result }) => result.problems.length > 0).map(({ item }) => item);
  if (doubtful.length === 0) return reads.map(({ result }) => result);
  const again = new Map<string, ExecutionUpstreams>();
  const blocked = (await readBlocked(run, doubtful)).flatMap((read) => {
    // Otherwise it has moved on: there is nothing to resend for it.
    again.set(read.candidate.keys.id, read.kind === "failed" ? failedRead(read.error) : NO_UPSTREAMS);
    return read.kind === "blocked" ? [read.execution] : [];
  });
  for (const { item, result } of pairResults(blocked, await readUpstreams(run, blocked), noRead)) {
    for (const { message, fields } of result.problems) run.reportUnreadable(message, fields);
    again.set(item.keys.id, result);
  }
  return reads.map(({ item, result }) => again.get(item.keys.id) ?? result);
}

const NO_UPSTREAMS: ExecutionUpstreams = { upstreams: [], problems: [], error: undefined };

function failedRead(error: Error): ExecutionUpstreams {
  return { ...NO_UPSTREAMS, error };
}

function noRead({ keys }: BlockedExecution): ExecutionUpstreams {
  return failedRead(new Error(`the upstreams of ${keys.id} were not read`));
}

/** Fails if an edge, an upstream or a mark could not be read. */
function outcomeOf({ error, upstreams }: ExecutionUpstreams, failures: ReadonlyMap<string, Error>): Outcome {
  if (error !== undefined) return failed(error);
  for (const upstream of upstreams) {
    const failure =
      upstream.state.kind === "failed" ? upstream.state.error : failures.get(upstreamKey(upstream));
    if (failure !== undefined) return failed(failure);
  }
  return PROCESSED;
}

/** If all upstreams of an execution have ended: since when it could have been released or skipped. */
function recordAge(run: TaskRun, { upstreams, error, problems }: ExecutionUpstreams): void {
  if (error !== undefined || problems.length > 0 || upstreams.length === 0) return;
  let sinceMs = 0;
  for (const { state } of upstreams) {
    if (state.kind !== "ended" || state.endedAtMs === undefined) return;
    sinceMs = Math.max(sinceMs, state.endedAtMs);
  }
  run.recordAge(METRICS.oldestResolvableAge, sinceMs);
}
