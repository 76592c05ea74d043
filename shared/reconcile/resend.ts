/** Sends completions that dispatch missed to the queue again, so that dispatch processes them. */

import type { Completion } from "#shared/contract/message.ts";
import { pairResults } from "#shared/contract/results.ts";
import { PublishError } from "#shared/errors.ts";
import type { SendResult } from "#shared/queue/batch-sender.ts";
import { failed, firstFailure, type Outcome, PROCESSED } from "#shared/reconcile/outcome.ts";
import type { BlockedExecution } from "#shared/reconcile/read-blocked.ts";
import type { SweepRun } from "#shared/reconcile/run.ts";
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
/** Upstreams remembered as sent. Beyond that, a sweep may send a completion twice, which is harmless. */
const MAX_REMEMBERED = 100_000;

interface MissedCompletion {
  readonly key: string;
  readonly completion: Completion;
}

/** Resends missed completions, each at most once per run. */
export class CompletionResender {
  readonly #run: SweepRun;
  readonly #sent = new Set<string>();

  constructor(run: SweepRun) {
    this.#run = run;
  }

  /**
   * Sends one completion for every upstream that ended longer ago than the grace period and that one of the executions
   * still waits for. Returns one outcome per execution, in their order. Throws SweepStopped.
   */
  async resendFor(executions: readonly BlockedExecution[]): Promise<Outcome[]> {
    const outcomes: Outcome[] = [];
    for (const chunk of chunked(executions, ({ unresolved }) => unresolved, EDGES_PER_READ)) {
      await this.#run.beginStep();
      const reads = await readUpstreams(this.#run, chunk);
      for (const read of reads) recordAge(this.#run, read);
      const missed = this.#missedCompletions(reads);
      const results = await this.#send(missed);
      for (const read of reads) outcomes.push(outcomeOf(read, results));
    }
    return outcomes;
  }

  #missedCompletions(reads: readonly ExecutionUpstreams[]): MissedCompletion[] {
    const upstreams = new Set(reads.flatMap((read) => read.upstreams));
    return [...upstreams].flatMap((upstream) => {
      const key = upstreamKey(upstream);
      const completion = missedCompletion(this.#run, upstream);
      return completion === undefined || this.#sent.has(key) ? [] : [{ key, completion }];
    });
  }

  /** Returns one result per completion, by upstream. */
  async #send(missed: readonly MissedCompletion[]): Promise<Map<string, SendResult>> {
    const results = new Map<string, SendResult>();
    const { publisher, deadlineMs } = this.#run.ports;
    for (const chunk of chunked(missed, () => 1, COMPLETIONS_PER_SEND)) {
      await this.#run.beginStep();
      const completions = chunk.map(({ completion }) => completion);
      const answer = await publisher.send(completions, deadlineMs);
      // With another number of results, their positions mean nothing: the whole chunk counts as not sent.
      const trusted = answer.length === chunk.length ? answer : [];
      for (const { item, result } of pairResults(chunk, trusted, noResult)) {
        results.set(item.key, result);
        if (result.ok) this.#remember(item.key);
      }
    }
    return results;
  }

  #remember(key: string): void {
    this.#run.counts.repaired += 1;
    if (this.#sent.size >= MAX_REMEMBERED) this.#sent.clear();
    this.#sent.add(key);
  }
}

function noResult(): SendResult {
  return { ok: false, error: new PublishError("the publisher returned no result for a completion") };
}

function missedCompletion(run: SweepRun, { id, flowId, state }: Upstream): Completion | undefined {
  if (state.kind !== "ended" || !run.isPastGrace(state.endedAtMs)) return undefined;
  return { executionId: id, flowId, outcome: state.outcome, depth: 0, root: id };
}

/** Fails if an edge or an upstream could not be read, or a completion was not sent. */
function outcomeOf({ error, upstreams }: ExecutionUpstreams, sent: ReadonlyMap<string, SendResult>): Outcome {
  if (error !== undefined) return failed(error);
  return firstFailure(
    upstreams.map((upstream): Outcome => {
      if (upstream.state.kind === "failed") return failed(upstream.state.error);
      // Without a result, no completion is due, or this run has sent it before.
      return sent.get(upstreamKey(upstream)) ?? PROCESSED;
    }),
  );
}

/** If all upstreams of an execution have ended: since when it could have been released or skipped. */
function recordAge(run: SweepRun, { upstreams, error, isInconsistent }: ExecutionUpstreams): void {
  if (error !== undefined || isInconsistent || upstreams.length === 0) return;
  let sinceMs = 0;
  for (const { state } of upstreams) {
    if (state.kind !== "ended" || state.endedAtMs === undefined) return;
    sinceMs = Math.max(sinceMs, state.endedAtMs);
  }
  run.recordResolvableSince(sinceMs);
}
