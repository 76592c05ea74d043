import type { Plan, PlannedTask } from "#sdk/submission/plan.ts";
import { HELD_UNTIL_MS, isRoot } from "#sdk/submission/roots.ts";
import type { RetryPolicy } from "#sdk/submission/workflow.ts";
import { command, type Pipelines, type ValkeyCommand } from "#shared/contract/command.ts";
import { applyDependencyToChild, createExecution } from "#shared/contract/submission.ts";
import { ValkeyError } from "#shared/errors.ts";
import {
  chunked,
  doneOrThrow,
  MAX_PIPELINE_LENGTH,
  sendChunks,
  valueOrThrow,
} from "#shared/valkey/batches.ts";

const EXECUTION_KIND = "task";
const CREATOR = "sluice";
/** Payload characters that count as one command when chunks are filled: bounds a pipeline at about 4 MiB. */
const CHARACTERS_PER_COMMAND = 4_096;

/**
 * Creates executions, each in one transaction with its dependencies. `ff_create_execution` alone makes a child
 * eligible, and a worker could claim it before its first dependency is applied. With the transaction, a child is
 * blocked from the start, and an execution that exists has all its dependencies. Roots are created held (roots.ts).
 */
export async function createExecutions(
  valkey: Pipelines,
  plan: Plan,
  tasks: readonly PlannedTask[],
  onCreated: (count: number) => void,
): Promise<void> {
  const nowMs = Date.now();
  await sendChunks(chunked(tasks, weightOf, MAX_PIPELINE_LENGTH), async (chunk) => {
    const results = await valkey.pipelined(chunk.flatMap((planned) => transaction(plan, planned, nowMs)));
    let position = 0;
    for (const planned of chunk) {
      const length = planned.incoming.length === 0 ? 1 : planned.incoming.length + 3;
      // In order: a command that cannot be queued gives the reason, and EXEC only reports that it was aborted.
      const replies = Array.from({ length }, (_, offset) => valueOrThrow(results[position + offset]));
      checkReplies(planned, replies);
      position += length;
    }
    onCreated(chunk.length);
  });
}

function weightOf({ incoming, task }: PlannedTask): number {
  return 3 + incoming.length + Math.floor(task.payload.length / CHARACTERS_PER_COMMAND);
}

/** The commands that create one execution. A root needs one call and no transaction. */
function transaction(plan: Plan, planned: PlannedTask, nowMs: number): ValkeyCommand[] {
  const { flow, index } = plan;
  const { keys, task, incoming } = planned;
  const create = createExecution({
    keys,
    index,
    namespace: plan.namespace,
    lane: task.lane,
    kind: EXECUTION_KIND,
    priority: task.priority,
    creator: CREATOR,
    policyJson: policyJson(task.retryPolicy),
    payload: task.payload,
    ...(isRoot(planned) ? { delayUntil: HELD_UNTIL_MS } : {}),
  });
  if (incoming.length === 0) return [create];
  return [
    command(flow.partition, "multi"),
    create,
    // The edges are not staged yet, so no revision exists. The function does not check it.
    ...incoming.map((edge) => applyDependencyToChild(flow, keys, index, task.lane, edge, 0, nowMs)),
    command(flow.partition, "exec"),
  ];
}

/** Checks every reply of one execution's commands, including those inside EXEC's reply. */
function checkReplies({ incoming }: PlannedTask, replies: readonly unknown[]): void {
  if (incoming.length === 0) {
    doneOrThrow("ff_create_execution", replies[0]);
    return;
  }
  const executed = replies.at(-1);
  if (!Array.isArray(executed)) throw new ValkeyError("the server discarded a transaction");
  for (let position = 0; position <= incoming.length; position += 1) {
    const reply: unknown = executed[position];
    if (reply instanceof Error) throw new ValkeyError(reply.message, { cause: reply });
    doneOrThrow(position === 0 ? "ff_create_execution" : "ff_apply_dependency_to_child", reply);
  }
}

/**
 * An execution's policy as stored in its record: the retry policy is under `retry_policy`, in the shape that
 * `ff_fail_execution` takes (contract, section 6). Empty without a retry policy.
 */
function policyJson(retryPolicy: RetryPolicy | undefined): string {
  if (retryPolicy === undefined) return "";
  const { maxRetries, backoff } = retryPolicy;
  return JSON.stringify({
    retry_policy: {
      max_retries: maxRetries,
      backoff:
        backoff.type === "fixed"
          ? { type: backoff.type, delay_ms: backoff.delayMs }
          : {
              type: backoff.type,
              initial_delay_ms: backoff.initialDelayMs,
              max_delay_ms: backoff.maxDelayMs,
              multiplier: backoff.multiplier,
            },
    },
  });
}
