/**
 * Sends completions that dispatch missed to the queue again, so that dispatch processes them.
 *
 * A run first reads, and then sends: only the whole picture tells a lost completion from a late one (`ResendPlan`). The
 * mark of an upstream is written before its completion is sent. So a run that dies in between delays the completion by a
 * minute, and a run that always dies after sending cannot send the same completion in every sweep. After a refusal, the
 * mark is set back: the completion was certainly not sent. After a lost answer, it stays.
 */

import { command, type ValkeyCommand } from "#shared/contract/command.ts";
import type { Completion } from "#shared/contract/message.ts";
import { pairResults } from "#shared/contract/results.ts";
import { isRecordError, messageOf, PublishError } from "#shared/errors.ts";
import type { SendResult } from "#shared/queue/batch-sender.ts";
import { failed, firstFailure, type Outcome, PROCESSED, pipelineEach } from "#shared/reconcile/outcome.ts";
import { type BlockedExecution, readBlocked } from "#shared/reconcile/read-blocked.ts";
import {
  formatMark,
  MARK_TTL_SECONDS,
  nextMark,
  parseMark,
  type ResendCandidate,
  ResendPlan,
} from "#shared/reconcile/resend-policy.ts";
import { type SweepRun, SweepStopped } from "#shared/reconcile/run.ts";
import {
  type ExecutionUpstreams,
  readUpstreams,
  type Upstream,
  upstreamKey,
} from "#shared/reconcile/upstreams.ts";
import { chunked } from "#shared/valkey/batches.ts";

/** Unresolved edges read together. An execution with more of them is read alone, with all its edges. */
const EDGES_PER_READ = 10_000;
/** Completions sent between two checks of the deadline. */
const COMPLETIONS_PER_SEND = 500;
/** Upstreams remembered as counted. Beyond that, an upstream may count twice, or be sent twice. */
const MAX_REMEMBERED = 200_000;

interface MissedCompletion extends ResendCandidate {
  readonly completion: Completion;
}

/** Collects missed completions while a run reads, and sends them at its end, each at most once. */
export class CompletionResender {
  readonly #run: SweepRun;
  readonly #plan: ResendPlan<MissedCompletion>;
  readonly #seen = new Set<string>();

  constructor(run: SweepRun) {
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
   * Sends what the plan selects. Returns the number of completions that are not known to be sent. Throws SweepStopped if
   * the lease is lost.
   */
  async send(): Promise<number> {
    const { counts } = this.#run;
    const due = this.#plan.dueCount;
    if (due === 0) return 0;
    let failures = 0;
    const selected = this.#plan.select(await this.#queued());
    this.#run.beginSending();
    for (const chunk of chunked(selected, () => 1, COMPLETIONS_PER_SEND)) {
      if (!(await this.#hasTime())) break;
      const marked = await this.#mark(chunk);
      failures += chunk.length - marked.length;
      const results = await this.#publish(marked);
      await this.#unmark(results.flatMap(({ item, result }) => (isRefused(result) ? [item] : [])));
      for (const { result } of results) {
        if (result.ok) {
          counts.repaired += 1;
          continue;
        }
        failures += 1;
        this.#run.warn("completion not sent, will retry", { reason: result.error.message });
      }
    }
    counts.deferred = due - counts.repaired - failures;
    return failures;
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
      command(completionKeys(this.#run, completion).partition, "get", markKey(this.#run, completion)),
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

  /** The messages in the queue; undefined, with a warning, if they cannot be counted. */
  async #queued(): Promise<number | undefined> {
    try {
      return await this.#run.ports.backlog.count();
    } catch (error) {
      this.#run.warn("message counts of the queue unknown, resending without them", {
        reason: messageOf(error),
      });
      return undefined;
    }
  }

  async #hasTime(): Promise<boolean> {
    try {
      await this.#run.beginSendingStep();
      return true;
    } catch (error) {
      if (error instanceof SweepStopped && error.reason === "out_of_time") return false;
      throw error;
    }
  }

  /** Writes the next mark of each completion. Returns those that were marked; the others are not sent. */
  async #mark(missed: readonly MissedCompletion[]): Promise<MissedCompletion[]> {
    const nowMs = this.#run.serverNowMs;
    const results = await pipelineEach(this.#run.ports.valkey, missed, (item) =>
      this.#setMark(item, formatMark(nextMark(item, nowMs))),
    );
    return results.flatMap(({ item, result }) => {
      if (result.ok) return [item];
      this.#run.warn("completion not marked and not sent, will retry", { reason: result.error.message });
      return [];
    });
  }

  /** Restores the marks of completions that were certainly not sent. If that fails, they are late by their delay. */
  async #unmark(refused: readonly MissedCompletion[]): Promise<void> {
    await pipelineEach(this.#run.ports.valkey, refused, (item) =>
      item.mark === undefined
        ? command(
            completionKeys(this.#run, item.completion).partition,
            "del",
            markKey(this.#run, item.completion),
          )
        : this.#setMark(item, formatMark(item.mark)),
    );
  }

  #setMark({ completion }: MissedCompletion, mark: string): ValkeyCommand {
    const { partition } = completionKeys(this.#run, completion);
    return command(partition, "set", markKey(this.#run, completion), mark, "EX", MARK_TTL_SECONDS);
  }

  /** Returns one result per completion. */
  async #publish(
    marked: readonly MissedCompletion[],
  ): Promise<{ readonly item: MissedCompletion; readonly result: SendResult }[]> {
    if (marked.length === 0) return [];
    const { publisher, deadlineMs } = this.#run.ports;
    const answer = await publisher.send(
      marked.map(({ completion }) => completion),
      deadlineMs,
    );
    // With another number of results, their positions mean nothing: no completion is known to be sent.
    return pairResults(marked, answer.length === marked.length ? answer : [], noResult);
  }
}

function completionKeys({ ports }: SweepRun, { executionId }: Completion) {
  return ports.router.execKeys(executionId);
}

function markKey(run: SweepRun, completion: Completion): string {
  return completionKeys(run, completion).resent(completion.flowId);
}

function isRefused(result: SendResult): boolean {
  return !result.ok && result.error.outcome === "refused";
}

function noResult(): SendResult {
  return { ok: false, error: new PublishError("the publisher returned no result for a completion") };
}

/**
 * Reads the upstreams of the executions. Executions with invalid edges are read again before the edges are reported: an
 * edge may have been resolved between the read of the unresolved edges and the read of its record.
 */
async function readConsistently(
  run: SweepRun,
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
  return firstFailure(
    upstreams.map((upstream): Outcome => {
      if (upstream.state.kind === "failed") return failed(upstream.state.error);
      const failure = failures.get(upstreamKey(upstream));
      return failure === undefined ? PROCESSED : failed(failure);
    }),
  );
}

/** If all upstreams of an execution have ended: since when it could have been released or skipped. */
function recordAge(run: SweepRun, { upstreams, error, problems }: ExecutionUpstreams): void {
  if (error !== undefined || problems.length > 0 || upstreams.length === 0) return;
  let sinceMs = 0;
  for (const { state } of upstreams) {
    if (state.kind !== "ended" || state.endedAtMs === undefined) return;
    sinceMs = Math.max(sinceMs, state.endedAtMs);
  }
  run.recordResolvableSince(sinceMs);
}
