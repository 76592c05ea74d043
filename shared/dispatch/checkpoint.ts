/**
 * Checkpoints of long fan-outs. A fan-out that does not fit into one invocation continues after its checkpoint, so
 * that a redelivery does not repeat the calls of all edges before it.
 *
 * Edges are resolved in the order of their ids. The checkpoint is an edge id: this edge and all before it are resolved,
 * and their skipped children are published. It is cleared once no edge is deferred.
 */

import { command, type Pipelines, type ValkeyCommand } from "#shared/contract/command.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText } from "#shared/contract/record.ts";
import { pairResults } from "#shared/contract/results.ts";
import { MARK_TTL_SECONDS } from "#shared/dispatch/publish-cascades.ts";
import type { CompletedExecution, EdgeToResolve, FanOutPlan } from "#shared/dispatch/types.ts";
import { noResult } from "#shared/valkey/batches.ts";

interface CheckpointPorts {
  readonly valkey: Pipelines;
  readonly router: PartitionRouter;
}

/** The plans without the edges before their checkpoints. A checkpoint that cannot be read counts as none. */
export async function resume(
  { valkey, router }: CheckpointPorts,
  plans: readonly FanOutPlan[],
): Promise<FanOutPlan[]> {
  const results = await valkey.pipelined(
    plans.map(({ execution }) => {
      const { partition, fanOut } = router.execKeys(execution.executionId);
      return command(partition, "get", fanOut);
    }),
  );
  return pairResults(plans, results, noResult).map(({ item: plan, result }) => {
    const [completedAt, last = ""] = (result.ok ? fieldText(result.value) : "").split("|");
    const edges = plan.edges.toSorted(byId);
    const isValid = last !== "" && completedAt === plan.completedAt;
    return { ...plan, edges: isValid ? edges.filter(({ edge }) => edge > last) : edges };
  });
}

/**
 * Saves a checkpoint for each plan that has edges in this window and no edge that failed so far. If it cannot be saved,
 * the next delivery only takes longer.
 */
export async function saveCheckpoints(
  { valkey, router }: CheckpointPorts,
  plans: readonly FanOutPlan[],
  window: readonly EdgeToResolve[],
  isIncomplete: (execution: CompletedExecution) => boolean,
): Promise<void> {
  const lastEdges = new Map(window.map((edge) => [edge.execution, edge.edge]));
  await valkey.pipelined(
    plans.flatMap(({ execution, completedAt }): ValkeyCommand[] => {
      const edge = lastEdges.get(execution);
      if (edge === undefined || isIncomplete(execution)) return [];
      const { partition, fanOut } = router.execKeys(execution.executionId);
      return [command(partition, "set", fanOut, `${completedAt}|${edge}`, "EX", MARK_TTL_SECONDS)];
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
