/**
 * The task `ready`: sends the ready messages of executions again that are eligible and that no worker has claimed. It changes
 * no record, so it works with every library.
 *
 * A message is lost if the process that made the execution eligible died before it sent it, or if the message ended as a dead
 * letter. Executions that are reclaimable are those of the task `leases`.
 */

import type { FlowId } from "#shared/contract/ids.ts";
import { parseStoredFlowId } from "#shared/contract/ids.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { parseTime } from "#shared/contract/record.ts";
import { pairResults } from "#shared/contract/results.ts";
import { isRecordError, ValkeyError } from "#shared/errors.ts";
import { furtherFields, parseReadiness, readReadiness } from "#shared/ready/readiness.ts";
import type { IndexEntry, IndexFamily } from "#shared/reconcile/indexes.ts";
import { failed, KEPT, type Outcome, pipelineEach } from "#shared/reconcile/outcome.ts";
import { ReadyResender, type UnclaimedExecution } from "#shared/reconcile/ready-resend.ts";
import { executionOf } from "#shared/reconcile/records.ts";
import type { ReadyPorts, TaskRun } from "#shared/reconcile/run.ts";
import type { ReconcilerTask, TaskWork } from "#shared/reconcile/task.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";

/** `queues`: the ready queues of lanes. Other lanes are not read. */
export function ready(queues: ReadyPorts): ReconcilerTask {
  const eligible: IndexFamily = {
    name: "eligible",
    paging: "zset",
    isPerLane: true,
    hasLane: (lane) => queues.publisher.announces(lane),
    keyOf: (keys) => keys.eligible,
  };
  return {
    name: "ready",
    families: [eligible],
    metrics: [METRICS.readyResent, METRICS.readyDeferred],
    ages: [],
    batchSize: 500,
    sendsAtEnd: true,
    isTimeCritical: false,
    begin: (run) => new ReadySweep(run, new ReadyResender(run, queues)),
  };
}

class ReadySweep implements TaskWork {
  readonly #run: TaskRun;
  readonly #resender: ReadyResender;

  constructor(run: TaskRun, resender: ReadyResender) {
    this.#run = run;
    this.#resender = resender;
  }

  async process(entries: readonly IndexEntry[]): Promise<Outcome[]> {
    const listed = entries.flatMap((entry) => {
      const keys = executionOf(this.#run, entry);
      return keys === undefined ? [] : [{ entry, keys }];
    });
    const reads = await pipelineEach(this.#run.ports.valkey, listed, ({ keys }) =>
      readReadiness(keys, "flow_id", "last_transition_at"),
    );
    const outcomes = new Map<IndexEntry, Outcome>();
    const unclaimed: { readonly entry: IndexEntry; readonly execution: UnclaimedExecution }[] = [];
    for (const { item, result } of reads) {
      if (!result.ok) {
        if (isRecordError(result.error)) this.#report(item.keys, result.error);
        else outcomes.set(item.entry, failed(result.error));
        continue;
      }
      const execution = this.#unclaimedOf(item.keys, result.value);
      if (execution !== undefined) unclaimed.push({ entry: item.entry, execution });
    }
    const collected = await this.#resender.collect(unclaimed.map(({ execution }) => execution));
    for (const { item, result } of pairResults(unclaimed, collected, noOutcome)) {
      outcomes.set(item.entry, result);
    }
    // The others are invalid, which was reported, or can be claimed no more.
    return entries.map((entry) => outcomes.get(entry) ?? KEPT);
  }

  finish(): Promise<boolean> {
    return this.#resender.sendNext();
  }

  #unclaimedOf(keys: ExecKeys, value: unknown): UnclaimedExecution | undefined {
    const readiness = parseReadiness(value);
    if (readiness === undefined) return undefined;
    const [flowText = "", since = ""] = furtherFields(value);
    let flowId: FlowId | undefined;
    if (flowText !== "") {
      const flow = parseStoredFlowId(flowText);
      if (!flow.ok) {
        this.#report(keys, flow.error);
        return undefined;
      }
      flowId = flow.value;
    }
    return { keys, flowId, readiness, sinceMs: parseTime(since) };
  }

  #report({ id }: ExecKeys, { message: reason }: { readonly message: string }): void {
    this.#run.reportUnreadable("eligible execution skipped: its record cannot be read", {
      execution_id: id,
      reason,
    });
  }
}

function noOutcome(): Outcome {
  return failed(new ValkeyError("no outcome for an eligible execution"));
}
