/**
 * The task `dependencies`: finds completions that dispatch missed and sends them to the queue again. It resolves no edge
 * itself, so that only dispatch changes children.
 *
 * It reads first, and sends at the end of its sweep: only the whole picture tells a lost completion from a late one. If the
 * process dies in between, the next sweep finds what was read and not sent. A completion that is sent twice changes
 * nothing, and a second promotion is refused.
 */

import { pairResults } from "#shared/contract/results.ts";
import { ValkeyError } from "#shared/errors.ts";
import type { IndexEntry, IndexFamily } from "#shared/reconcile/indexes.ts";
import { failed, type Outcome, PROCESSED } from "#shared/reconcile/outcome.ts";
import { promoteUnblocked } from "#shared/reconcile/promote.ts";
import {
  type BlockedExecution,
  type BlockedRead,
  candidateOf,
  readBlocked,
} from "#shared/reconcile/read-blocked.ts";
import { CompletionResender } from "#shared/reconcile/resend.ts";
import type { TaskRun } from "#shared/reconcile/run.ts";
import type { ReconcilerTask, TaskWork } from "#shared/reconcile/task.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";

const BLOCKED: IndexFamily = {
  name: "blocked:dependencies",
  paging: "zset",
  isPerLane: true,
  keyOf: ({ blockedDependencies }) => blockedDependencies,
};

export const dependencies: ReconcilerTask = {
  name: "dependencies",
  families: [BLOCKED],
  metrics: [
    METRICS.executionsScanned,
    METRICS.completionsRepaired,
    METRICS.completionsDeferred,
    METRICS.executionsPromoted,
    METRICS.promotionsRefused,
  ],
  ages: [METRICS.oldestResolvableAge],
  batchSize: 250,
  sendsAtEnd: true,
  isTimeCritical: false,
  begin: (run) => new DependencySweep(run),
};

class DependencySweep implements TaskWork {
  readonly #run: TaskRun;
  readonly #resender: CompletionResender;

  constructor(run: TaskRun) {
    this.#run = run;
    this.#resender = new CompletionResender(run);
  }

  async process(entries: readonly IndexEntry[]): Promise<Outcome[]> {
    this.#run.count(METRICS.executionsScanned, entries.length);
    const candidates = entries.map((entry) => candidateOf(this.#run, entry));
    const reads = await readBlocked(
      this.#run,
      candidates.filter((candidate) => candidate !== undefined),
    );
    const outcomes = await this.#processBlocked(
      reads.flatMap((read) => (read.kind === "blocked" ? [read.execution] : [])),
    );
    const readOf = new Map(reads.map((read) => [read.candidate, read]));
    return candidates.map((candidate) => {
      // An invalid entry was reported, and there is nothing to retry.
      if (candidate === undefined) return PROCESSED;
      return outcomeOf(readOf.get(candidate), outcomes);
    });
  }

  finish(): Promise<boolean> {
    return this.#resender.sendNext();
  }

  async #processBlocked(
    executions: readonly BlockedExecution[],
  ): Promise<ReadonlyMap<BlockedExecution, Outcome>> {
    const unblocked = executions.filter(({ unresolved }) => unresolved === 0);
    const waiting = executions.filter(({ unresolved }) => unresolved !== 0);
    const promoted = await promoteUnblocked(this.#run, unblocked);
    const resent = await this.#resender.collectFor(waiting);
    return new Map([
      ...pairResults(unblocked, promoted, noOutcome).map(({ item, result }) => [item, result] as const),
      ...pairResults(waiting, resent, noOutcome).map(({ item, result }) => [item, result] as const),
    ]);
  }
}

function noOutcome({ keys }: BlockedExecution): Outcome {
  return failed(new ValkeyError(`no outcome for the execution ${keys.id}`));
}

function outcomeOf(read: BlockedRead | undefined, outcomes: ReadonlyMap<BlockedExecution, Outcome>): Outcome {
  if (read === undefined) return failed(new ValkeyError("an execution was not read"));
  if (read.kind === "failed") return failed(read.error);
  if (read.kind === "not_blocked") return PROCESSED;
  return outcomes.get(read.execution) ?? noOutcome(read.execution);
}
