/**
 * Checkpoints of long fan-outs. A fan-out that does not fit into one invocation continues after its checkpoint, so
 * that a redelivery does not repeat the calls of all edges before it.
 *
 * Edges are resolved in the order of their ids. The checkpoint is an edge id: this edge and all before it were tried, and
 * their skipped children are published. It also records whether one of them failed. Such a pass still goes on to its last
 * edge, so that an edge that always fails hides no other, and then fails its message. The next pass starts from the first
 * edge, because the checkpoint is cleared once no edge is deferred.
 */

import { command, type Pipelines, type ValkeyCommand } from "#shared/contract/command.ts";
import { CASCADE_MARK_TTL_SECONDS } from "#shared/contract/keys.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText } from "#shared/contract/record.ts";
import { pairResults } from "#shared/contract/results.ts";
import type { CompletedExecution, EdgeToResolve, FanOutPlan } from "#shared/dispatch/types.ts";
import { noResult } from "#shared/valkey/batches.ts";

interface CheckpointPorts {
  readonly valkey: Pipelines;
  readonly router: PartitionRouter;
}

/** A plan with the edges after its checkpoint, in the order of their ids. */
export interface ResumedPlan extends FanOutPlan {
  /** Whether an edge before the checkpoint failed in an earlier delivery of this pass. */
  readonly hasFailures: boolean;
}

/** The progress of one pass over the edges of an execution: an edge was deferred, an edge failed, or neither. */
export type PassState = "deferred" | "failed" | "successful";

/** The plans without the edges before their checkpoints. A checkpoint that cannot be read counts as none. */
export async function resume(
  { valkey, router }: CheckpointPorts,
  plans: readonly FanOutPlan[],
): Promise<ResumedPlan[]> {
  const results = await valkey.pipelined(
    plans.map(({ execution }) => {
      const { partition, fanOut } = router.execKeys(execution.executionId);
      return command(partition, "get", fanOut);
    }),
  );
  return pairResults(plans, results, noResult).map(({ item: plan, result }) => {
    const { completedAt, last, hasFailures } = parseCheckpoint(result.ok ? fieldText(result.value) : "");
    const edges = plan.edges.toSorted(byId);
    if (last === "" || completedAt !== plan.completedAt) return { ...plan, edges, hasFailures: false };
    return { ...plan, edges: edges.filter(({ edge }) => edge > last), hasFailures };
  });
}

/**
 * The first word of a checkpoint behind a failed edge. Earlier revisions expect `completedAt` there, ignore the
 * checkpoint, and so do not take the failed edge for a resolved one.
 */
const FAILED = "failed";

function formatCheckpoint({ completedAt }: FanOutPlan, last: string, hasFailures: boolean): string {
  return [...(hasFailures ? [FAILED] : []), completedAt, last].join("|");
}

function parseCheckpoint(text: string): {
  readonly completedAt: string;
  readonly last: string;
  readonly hasFailures: boolean;
} {
  const words = text.split("|");
  const hasFailures = words[0] === FAILED;
  const [completedAt = "", last = ""] = hasFailures ? words.slice(1) : words;
  return { completedAt, last, hasFailures };
}

/**
 * Saves a checkpoint for each plan that has edges in this window, unless one of its edges was deferred. If it cannot be
 * saved, the next delivery only takes longer.
 */
export async function saveCheckpoints(
  { valkey, router }: CheckpointPorts,
  plans: readonly ResumedPlan[],
  window: readonly EdgeToResolve[],
  stateOf: (execution: CompletedExecution) => PassState,
): Promise<void> {
  const lastEdges = new Map(window.map((edge) => [edge.execution, edge.edge]));
  await valkey.pipelined(
    plans.flatMap((plan): ValkeyCommand[] => {
      const edge = lastEdges.get(plan.execution);
      const state = stateOf(plan.execution);
      if (edge === undefined || state === "deferred") return [];
      const { partition, fanOut } = router.execKeys(plan.execution.executionId);
      const checkpoint = formatCheckpoint(plan, edge, plan.hasFailures || state === "failed");
      return [command(partition, "set", fanOut, checkpoint, "EX", CASCADE_MARK_TTL_SECONDS)];
    }),
  );
}

/** Clears the checkpoints of fan-outs. */
export async function clearCheckpoints(
  { valkey, router }: CheckpointPorts,
  plans: readonly FanOutPlan[],
): Promise<void> {
  await valkey.pipelined(
    plans.map(({ execution }) => {
      const { partition, fanOut } = router.execKeys(execution.executionId);
      return command(partition, "del", fanOut);
    }),
  );
}

function byId(left: EdgeToResolve, right: EdgeToResolve): number {
  if (left.edge === right.edge) return 0;
  return left.edge < right.edge ? -1 : 1;
}
