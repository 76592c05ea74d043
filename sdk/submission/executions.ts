import type { Plan, PlannedTask } from "#sdk/submission/plan.ts";
import type { RetryPolicy } from "#sdk/submission/workflow.ts";
import { command, type Pipelines, type ValkeyCommand, type ValkeyResult } from "#shared/contract/command.ts";
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
/** Payload that makes up for one command when a pipeline is filled: bounds a pipeline at 4 MiB. */
const CHARACTERS_PER_COMMAND = 4_096;

/**
 * Creates executions, each with its dependencies in one transaction. `ff_create_execution` alone would make
 * a child eligible, and a worker could take it before its first dependency is applied; in a transaction it
 * is blocked from its birth, and an execution that exists has all its dependencies.
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
      check(planned, results.slice(position, position + length));
      position += length;
    }
    onCreated(chunk.length);
  });
}

function weightOf({ incoming, task }: PlannedTask): number {
  return 3 + incoming.length + Math.floor(task.payload.length / CHARACTERS_PER_COMMAND);
}

/** The commands of one execution. A root's single call needs no transaction. */
function transaction(plan: Plan, planned: PlannedTask, nowMs: number): ValkeyCommand[] {
  const { edition, flow, index } = plan;
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
  });
  if (incoming.length === 0) return [create];
  return [
    command(flow.partition, "multi"),
    create,
    // The edges are not staged yet, so there is no revision to name: applying does not check it.
    ...incoming.map((edge) => applyDependencyToChild(edition, flow, keys, index, task.lane, edge, 0, nowMs)),
    command(flow.partition, "exec"),
  ];
}

/** Checks every reply of one transaction, those inside EXEC's included. */
function check({ incoming }: PlannedTask, results: readonly ValkeyResult[]): void {
  if (incoming.length === 0) {
    doneOrThrow("ff_create_execution", valueOrThrow(results[0]));
    return;
  }
  // A command that cannot be queued says why, and EXEC only that something was wrong: report the former.
  const [replies] = results.map(valueOrThrow).slice(-1);
  if (!Array.isArray(replies)) throw new ValkeyError("the server discarded a transaction");
  for (const position of Array.from({ length: incoming.length + 1 }, (_, number) => number)) {
    const reply: unknown = replies[position];
    if (reply instanceof Error) throw new ValkeyError(reply.message, { cause: reply });
    doneOrThrow(position === 0 ? "ff_create_execution" : "ff_apply_dependency_to_child", reply);
  }
}

/**
 * An execution's policy as the record keeps it: the retry policy under `retry_policy`, in the shape that
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
