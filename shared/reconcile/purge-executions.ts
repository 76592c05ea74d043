/**
 * Deletes executions outside any flow whose retention is over. They are found in the lanes' `terminal` indexes, among the
 * members of flows, which their flows retain.
 */

import { command } from "#shared/contract/command.ts";
import { type FlowId, parseStoredFlowId } from "#shared/contract/ids.ts";
import type { ExecKeys, FlowKeys } from "#shared/contract/keys.ts";
import { fieldText } from "#shared/contract/record.ts";
import { countMembers, purgeSoloExecution } from "#shared/contract/retention.ts";
import { ValkeyError } from "#shared/errors.ts";
import type { IndexEntry } from "#shared/reconcile/indexes.ts";
import { callEach, failed, KEPT, type Outcome, PROCESSED, UNFINISHED } from "#shared/reconcile/outcome.ts";
import { executionOf } from "#shared/reconcile/records.ts";
import type { TaskRun } from "#shared/reconcile/run.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { replyOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";

/** Flows that a run remembers as counted. Beyond that, one may be checked several times. */
const MAX_CHECKED_FLOWS = 100_000;

interface EndedExecution {
  readonly entry: IndexEntry;
  readonly keys: ExecKeys;
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
    const executions = entries.flatMap((entry): EndedExecution[] => {
      const keys = executionOf(this.#run, entry);
      if (keys === undefined) outcomes.set(entry, KEPT);
      return keys === undefined ? [] : [{ entry, keys }];
    });
    for (const { item, result } of await callEach(ports, executions, ({ entry, keys }) => {
      const { lane } = entry.index;
      if (lane === undefined) throw new TypeError("a terminal index without a lane");
      return purgeSoloExecution(keys, lane, this.#retentionMs);
    })) {
      const reply = replyOrThrow(valueOrThrow(result));
      const [word, flowId] = reply.kind === "refused" ? [reply.code] : reply.fields;
      if (word === "purged") this.#run.count(METRICS.executionsPurged);
      outcomes.set(item.entry, word === "purged" ? PROCESSED : word === "more" ? UNFINISHED : KEPT);
      const flow = parseStoredFlowId(flowId);
      if (flow.ok) flows.set(flow.value, ports.router.flowKeys(flow.value, item.entry.index.partition));
    }
    await this.#countFlows([...flows.values()]);
    return entries.map(
      (entry) => outcomes.get(entry) ?? failed(new ValkeyError("the execution was not processed")),
    );
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
    for (const { result } of await callEach(ports, uncounted, countMembers))
      replyOrThrow(valueOrThrow(result));
    for (const { id } of unchecked) this.#checkedFlows.add(id);
  }
}
