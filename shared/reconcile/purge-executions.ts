/**
 * Deletes executions outside any flow whose retention is over. They are found in the lanes' `terminal` indexes, among the
 * members of flows, which their flows retain.
 */

import { command } from "#shared/contract/command.ts";
import { type ExecutionId, type FlowId, parseExecutionId, parseStoredFlowId, partitionOf } from "#shared/contract/ids.ts";
import type { FlowKeys } from "#shared/contract/keys.ts";
import { fieldText } from "#shared/contract/record.ts";
import { countMembers, purgeSoloExecution } from "#shared/contract/retention.ts";
import { ValkeyError } from "#shared/errors.ts";
import type { IndexEntry } from "#shared/reconcile/indexes.ts";
import { callEach, failed, KEPT, type Outcome, PROCESSED, UNFINISHED } from "#shared/reconcile/outcome.ts";
import type { TaskRun } from "#shared/reconcile/run.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { replyOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";

/** Flows that a run remembers as counted. Beyond that, one may be checked several times. */
const MAX_CHECKED_FLOWS = 100_000;

interface EndedExecution {
  readonly entry: IndexEntry;
  readonly id: ExecutionId;
}

export class ExecutionPurger {
  readonly #run: TaskRun;
  readonly #retentionMs: number;
  readonly #checkedFlows = new Set<FlowId>();

  constructor(run: TaskRun, retentionMs: number) {
    this.#run = run;
    this.#retentionMs = retentionMs;
  }

  /** Returns one outcome per entry of a `terminal` index, in their order. */
  async purge(entries: readonly IndexEntry[]): Promise<Outcome[]> {
    const { ports } = this.#run;
    const outcomes = new Map<IndexEntry, Outcome>();
    const flows = new Map<FlowId, FlowKeys>();
    const executions = entries.flatMap((entry) => this.#parse(entry) ?? []);
    for (const { item, result } of await callEach(ports, executions, ({ entry, id }) => {
      const { lane } = entry.index;
      if (lane === undefined) throw new TypeError("a terminal index without a lane");
      return purgeSoloExecution(ports.router.execKeys(id), lane, this.#retentionMs);
    })) {
      const reply = replyOrThrow(valueOrThrow(result));
      const [word, flowId] = reply.kind === "refused" ? [reply.code] : reply.fields;
      if (word === "purged") this.#run.count(METRICS.executionsPurged);
      outcomes.set(item.entry, word === "purged" ? PROCESSED : word === "more" ? UNFINISHED : KEPT);
      const flow = parseStoredFlowId(flowId);
      if (flow.ok) flows.set(flow.value, ports.router.flowKeys(flow.value, item.entry.index.partition));
    }
    await this.#countFlows([...flows.values()]);
    const isParsed = new Set(executions.map(({ entry }) => entry));
    return entries.map(
      (entry) =>
        outcomes.get(entry) ??
        (isParsed.has(entry) ? failed(new ValkeyError("the execution was not processed")) : KEPT),
    );
  }

  #parse(entry: IndexEntry): EndedExecution | undefined {
    const id = parseExecutionId(entry.member);
    if (id.ok && partitionOf(id.value) === entry.index.partition) return { entry, id: id.value };
    this.#run.reportUnreadable("index entry skipped: not an execution of its partition", {
      partition: entry.index.partition,
      reason: id.ok ? `${id.value} belongs to another partition` : id.error.message,
    });
    return undefined;
  }

  /** Starts the counts of flows that FlowFabric or Sluice 0.1 created: without them, a flow never ends. */
  async #countFlows(flows: readonly FlowKeys[]): Promise<void> {
    const { ports } = this.#run;
    const unchecked = flows.filter(({ id }) => !this.#checkedFlows.has(id));
    if (unchecked.length === 0) return;
    if (this.#checkedFlows.size > MAX_CHECKED_FLOWS) this.#checkedFlows.clear();
    const counts = await ports.valkey.pipelined(
      unchecked.map(({ partition, summary }) => command(partition, "hget", summary, "members_open")),
    );
    const uncounted = unchecked.filter((_, position) => fieldText(valueOrThrow(counts[position])) === "");
    for (const { result } of await callEach(ports, uncounted, countMembers)) replyOrThrow(valueOrThrow(result));
    for (const { id } of unchecked) this.#checkedFlows.add(id);
  }
}
