/**
 * Sends the completions of executions that the reconciler has just ended itself.
 *
 * Such a completion is certainly not in the queue yet, so it counts as a missing one (`resend-policy.ts`) whatever the
 * queue holds: it is sent at once, like that of a worker. If it is not sent, because the process dies before or the queue
 * refuses it, the task `dependencies` finds the children that wait for it.
 */

import { command, type ValkeyCommand } from "#shared/contract/command.ts";
import type { FlowId } from "#shared/contract/ids.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { fieldText, parseTime, type TerminalOutcome } from "#shared/contract/record.ts";
import { pipelineEach } from "#shared/reconcile/outcome.ts";
import type { TaskRun } from "#shared/reconcile/run.ts";
import { type MissedCompletion, sendCompletions } from "#shared/reconcile/send.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";

/** An execution that has just ended, of a flow. */
export interface EndedExecution {
  readonly keys: ExecKeys;
  readonly flowId: FlowId;
  readonly outcome: TerminalOutcome;
}

/**
 * Sends a completion for each execution that has children. What cannot be read counts as an execution with children: a
 * completion too many changes nothing.
 */
export async function sendEnded(run: TaskRun, executions: readonly EndedExecution[]): Promise<void> {
  const reads = executions.flatMap((execution) => readsOf(run, execution));
  const results = await pipelineEach(run.ports.valkey, reads, (read) => read);
  const missed = executions.flatMap(({ keys, flowId, outcome }, position): MissedCompletion[] => {
    const [children, end] = results.slice(2 * position, 2 * position + 2).map(({ result }) => result);
    if (children?.ok === true && Number(children.value) === 0) return [];
    const completedAt = end?.ok === true ? fieldText(end.value) : "";
    return [
      {
        completion: { executionId: keys.id, flowId, outcome, depth: 0, root: keys.id },
        end: completedAt,
        endedAtMs: parseTime(completedAt),
        mark: undefined,
      },
    ];
  });
  const outcomes = await sendCompletions(run, missed);
  run.count(METRICS.completionsSent, outcomes.filter(({ ok }) => ok).length);
}

function readsOf({ ports: { router } }: TaskRun, { keys, flowId }: EndedExecution): ValkeyCommand[] {
  const { partition } = keys;
  return [
    command(partition, "scard", router.flowKeys(flowId, partition).outgoing(keys.id)),
    command(partition, "hget", keys.core, "completed_at"),
  ];
}
