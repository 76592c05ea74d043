import type { Plan, PlannedTask } from "#sdk/submission/plan.ts";
import { policyJson } from "#sdk/submission/policy.ts";
import { HELD_UNTIL_MS, isRoot } from "#sdk/submission/roots.ts";
import { deadlineOf, delayedUntil } from "#sdk/submission/times.ts";
import type { WaitFor } from "#sdk/submission/workflow.ts";
import { command, type Pipelines, type ValkeyCommand } from "#shared/contract/command.ts";
import { type EdgeGroupPolicy, setEdgeGroupPolicy } from "#shared/contract/groups.ts";
import { applyDependencyToChild, createExecution, TASK_TAG } from "#shared/contract/submission.ts";
import { ValkeyError } from "#shared/errors.ts";
import {
  chunked,
  doneOrThrow,
  MAX_PIPELINE_LENGTH,
  sendChunks,
  valueOrThrow,
} from "#shared/valkey/batches.ts";

export const DEFAULT_KIND = "task";
const CREATOR = "sluice";
/** Payload characters that count as one command when chunks are filled: bounds a pipeline at about 4 MiB. */
const CHARACTERS_PER_COMMAND = 4_096;

/**
 * Creates executions, each in one transaction with its dependencies. `ff_create_execution` alone makes a child
 * eligible, and a worker could claim it before its first dependency is applied. With the transaction, a child is
 * blocked from the start, and an execution that exists has all its dependencies. Roots are created held (roots.ts).
 *
 * The policy of a child's edge group is set in the same transaction, because it must be set before any edge is applied.
 */
export async function createExecutions(
  valkey: Pipelines,
  plan: Plan,
  tasks: readonly PlannedTask[],
  submittedAtMs: number,
  onCreated: (count: number) => void,
): Promise<void> {
  const nowMs = Date.now();
  await sendChunks(chunked(tasks, weightOf, MAX_PIPELINE_LENGTH), async (chunk) => {
    const results = await valkey.pipelined(
      chunk.flatMap((planned) => transaction(plan, planned, submittedAtMs, nowMs)),
    );
    let position = 0;
    for (const planned of chunk) {
      const length = isRoot(planned) ? 1 : functionsOf(planned).length + 2;
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
function transaction(
  plan: Plan,
  planned: PlannedTask,
  submittedAtMs: number,
  nowMs: number,
): ValkeyCommand[] {
  const { flow, index } = plan;
  const { keys, task, incoming } = planned;
  const delayUntil = isRoot(planned) ? HELD_UNTIL_MS : delayedUntil(task, submittedAtMs);
  const deadlineAt = deadlineOf(task, submittedAtMs);
  const create = createExecution({
    keys,
    index,
    namespace: plan.namespace,
    lane: task.lane,
    kind: task.kind ?? DEFAULT_KIND,
    priority: task.priority,
    creator: CREATOR,
    policyJson: policyJson(task),
    payload: task.payload,
    // Ids of executions are hashes: without the tag, an operator would see a UUID in place of the task.
    tagsJson: JSON.stringify({ [TASK_TAG]: task.id }),
    ...(delayUntil === undefined ? {} : { delayUntil }),
    ...(deadlineAt === undefined ? {} : { deadlineAt }),
  });
  if (isRoot(planned)) return [create];
  return [
    command(flow.partition, "multi"),
    create,
    ...(task.waitFor === undefined
      ? []
      : [setEdgeGroupPolicy(flow, keys.id, groupPolicy(task.waitFor), nowMs)]),
    // The edges are not staged yet, so no revision exists. The function does not check it.
    ...incoming.map((edge) => applyDependencyToChild(flow, keys, index, task.lane, edge, 0, nowMs)),
    command(flow.partition, "exec"),
  ];
}

/** The functions that the transaction of a child calls, in order. */
function functionsOf({ task, incoming }: PlannedTask): string[] {
  return [
    "ff_create_execution",
    ...(task.waitFor === undefined ? [] : ["ff_set_edge_group_policy"]),
    ...incoming.map(() => "ff_apply_dependency_to_child"),
  ];
}

function groupPolicy({ quorum, onSatisfied }: WaitFor): EdgeGroupPolicy {
  const onDecided = onSatisfied === "letRun" ? "let_run" : "cancel_remaining";
  return quorum === undefined
    ? { variant: "any_of", onSatisfied: onDecided }
    : { variant: "quorum", onSatisfied: onDecided, k: quorum };
}

/** Checks every reply of one execution's commands, including those inside EXEC's reply. */
function checkReplies(planned: PlannedTask, replies: readonly unknown[]): void {
  if (isRoot(planned)) {
    doneOrThrow("ff_create_execution", replies[0]);
    return;
  }
  const executed = replies.at(-1);
  if (!Array.isArray(executed)) throw new ValkeyError("the server discarded a transaction");
  for (const [position, name] of functionsOf(planned).entries()) {
    const reply: unknown = executed[position];
    if (reply instanceof Error) throw new ValkeyError(reply.message, { cause: reply });
    doneOrThrow(name, reply);
  }
}
