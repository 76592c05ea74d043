/**
 * The task `retention`: sends a message for each flow that ended, if a queue is configured, and deletes flows and executions
 * whose retention is over.
 */

import { command } from "#shared/contract/command.ts";
import { ValkeyError } from "#shared/errors.ts";
import type { BatchSender } from "#shared/queue/batch-sender.ts";
import { sendFlowEnds } from "#shared/reconcile/flow-ends.ts";
import type { IndexEntry, IndexFamily } from "#shared/reconcile/indexes.ts";
import { failed, type Outcome } from "#shared/reconcile/outcome.ts";
import { ExecutionPurger } from "#shared/reconcile/purge-executions.ts";
import { purgeFlows } from "#shared/reconcile/purge-flows.ts";
import { SweepStopped, type TaskRun } from "#shared/reconcile/run.ts";
import type { ReconcilerTask, TaskWork } from "#shared/reconcile/task.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";

export interface RetentionOptions {
  /** How long ended flows and executions are kept, in milliseconds. 0: for ever. */
  readonly retentionMs: number;
  /** Receives one message per flow that ended. Undefined: nothing is sent. */
  readonly flowEnds: Pick<BatchSender, "send"> | undefined;
}

/** Before the deletion: a flow's message needs its counts. */
const ENDS: IndexFamily = {
  name: "flow_ends_unsent",
  paging: "due",
  isPerLane: false,
  keyOf: ({ flowEndsUnsent }) => flowEndsUnsent,
};

export function retention(options: RetentionOptions): ReconcilerTask {
  const { retentionMs, flowEnds } = options;
  const flows: IndexFamily = {
    name: "flows_ended",
    paging: "due",
    dueAfterMs: retentionMs,
    isPerLane: false,
    keyOf: ({ flowsEnded }) => flowsEnded,
  };
  const executions: IndexFamily = {
    name: "terminal",
    paging: "due",
    dueAfterMs: retentionMs,
    isPerLane: true,
    keyOf: ({ terminal }) => terminal,
  };
  return {
    name: "retention",
    families: [...(flowEnds === undefined ? [] : [ENDS]), ...(retentionMs === 0 ? [] : [flows, executions])],
    metrics: [METRICS.flowsPurged, METRICS.executionsPurged, METRICS.flowEndsSent],
    ages: [],
    batchSize: 250,
    sendsAtEnd: false,
    isTimeCritical: false,
    begin: (run) => new RetentionSweep(run, options),
  };
}

class RetentionSweep implements TaskWork {
  readonly #run: TaskRun;
  readonly #options: RetentionOptions;
  readonly #executions: ExecutionPurger;
  /** Read at the start, together with the pages: at the end, it would cost a round trip of its own. */
  readonly #retained: Promise<number | undefined>;

  constructor(run: TaskRun, options: RetentionOptions) {
    this.#run = run;
    this.#options = options;
    this.#executions = new ExecutionPurger(run, options.retentionMs);
    this.#retained = countEndedFlows(run.ports);
  }

  async process(entries: readonly IndexEntry[]): Promise<Outcome[]> {
    const byFamily = Map.groupBy(entries, ({ index }) => index.family.name);
    const outcomes = new Map<IndexEntry, Outcome>();
    for (const [family, own] of byFamily) {
      const processed = await this.#processFamily(family, own);
      for (const [position, outcome] of processed.entries()) {
        const entry = own[position];
        if (entry !== undefined) outcomes.set(entry, outcome);
      }
    }
    return entries.flatMap((entry) => outcomes.get(entry) ?? []);
  }

  #processFamily(family: string, entries: readonly IndexEntry[]): Promise<Outcome[]> {
    const { retentionMs, flowEnds } = this.#options;
    if (family === ENDS.name && flowEnds !== undefined) return sendFlowEnds(this.#run, flowEnds, entries);
    if (family === "terminal") return eachPartition(entries, (own) => this.#executions.purge(own));
    const flowRetention = { retentionMs, waitsForMessage: flowEnds !== undefined };
    return eachPartition(entries, (own) => purgeFlows(this.#run, flowRetention, own));
  }

  /** Measures how many ended flows were kept at the start, unless a node is unavailable. */
  async finish(): Promise<boolean> {
    const retained = await this.#retained;
    if (retained !== undefined) this.#run.ports.telemetry.measure(METRICS.flowsRetained, retained);
    return false;
  }
}

/** The number of ended flows; undefined if a node is unavailable. */
async function countEndedFlows({
  valkey,
  router,
  partitions,
}: TaskRun["ports"]): Promise<number | undefined> {
  const counts = await valkey.pipelined(
    partitions.map((partition) => command(partition, "zcard", router.indexKeys(partition).flowsEnded)),
  );
  const known = counts.flatMap((count) => (count.ok ? [Number(count.value)] : []));
  return known.length === partitions.length ? known.reduce((sum, count) => sum + count, 0) : undefined;
}

/** Processes the entries of each partition on their own: a node that is down only costs its own entries. */
async function eachPartition(
  entries: readonly IndexEntry[],
  processEntries: (own: readonly IndexEntry[]) => Promise<readonly Outcome[]>,
): Promise<Outcome[]> {
  const groups = [...Map.groupBy(entries, ({ index }) => index.partition).values()];
  const settled = await Promise.allSettled(groups.map(processEntries));
  const outcomes = new Map<IndexEntry, Outcome>();
  for (const [position, group] of groups.entries()) {
    const result = settled[position];
    if (result?.status === "rejected" && result.reason instanceof SweepStopped) throw result.reason;
    const error = result?.status === "rejected" ? toError(result.reason) : undefined;
    for (const [at, entry] of group.entries()) {
      const outcome = result?.status === "fulfilled" ? result.value[at] : undefined;
      outcomes.set(entry, outcome ?? failed(error ?? new ValkeyError("an entry has no outcome")));
    }
  }
  return entries.flatMap((entry) => outcomes.get(entry) ?? []);
}

function toError(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error(String(reason));
}
