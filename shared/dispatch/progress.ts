/**
 * How far a long fan-out has come. One that does not fit into an invocation, or whose invocation dies, goes on
 * behind the place that is kept here, rather than ask for every resolved edge again.
 *
 * Edges are taken in the order of their ids, and the place is the last edge of which this is true: it and all
 * before it are resolved, and their cascades are published. An edge that is staged later, before the place, is
 * left to whoever finds such edges anyway: the place is forgotten when the fan-out is done.
 */

import { command, type Pipelines, type ValkeyCommand } from "#shared/contract/command.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText } from "#shared/contract/record.ts";
import { MARK_TTL_SECONDS } from "#shared/dispatch/cascade.ts";
import type { EdgeWork, FanOutPlan, Work } from "#shared/dispatch/work.ts";

export interface ProgressPorts {
  readonly valkey: Pipelines;
  readonly router: PartitionRouter;
}

/** The plans without the edges that earlier deliveries dealt with. A place that cannot be read is none. */
export async function resume(
  { valkey, router }: ProgressPorts,
  plans: readonly FanOutPlan[],
): Promise<FanOutPlan[]> {
  if (plans.length === 0) return [];
  const results = await valkey.pipelined(
    plans.map(({ work }) =>
      command(router.partitionFor(work.executionId), "get", router.execKeys(work.executionId).fanOut),
    ),
  );
  return plans.map((plan, position) => {
    const result = results[position];
    const [completedAt, last = ""] = (result?.ok ? fieldText(result.value) : "").split("|");
    const edges = plan.edges.toSorted(byId);
    const isOurs = last !== "" && completedAt === plan.completedAt;
    return { ...plan, edges: isOurs ? edges.filter(({ edge }) => edge > last) : edges };
  });
}

/** Keeps the place of every long fan-out that has come through this window without a fault. */
export async function keepPlaces(
  { valkey, router }: ProgressPorts,
  plans: readonly FanOutPlan[],
  window: readonly EdgeWork[],
): Promise<void> {
  const last = new Map<Work, EdgeWork>(window.map((edge) => [edge.work, edge]));
  const commands = plans.flatMap(({ work, completedAt }): ValkeyCommand[] => {
    const edge = last.get(work)?.edge;
    if (edge === undefined || work.errors.length > 0) return [];
    const place = `${completedAt}|${edge}`;
    return [
      command(
        router.partitionFor(work.executionId),
        "set",
        router.execKeys(work.executionId).fanOut,
        place,
        "EX",
        MARK_TTL_SECONDS,
      ),
    ];
  });
  // A place that could not be written costs the next delivery some time, and nothing else.
  if (commands.length > 0) await valkey.pipelined(commands);
}

/** Forgets the places of the fan-outs that are done. */
export async function forgetPlaces(
  { valkey, router }: ProgressPorts,
  plans: readonly FanOutPlan[],
): Promise<void> {
  const done = plans.filter(({ work }) => work.errors.length === 0);
  if (done.length === 0) return;
  await valkey.pipelined(
    done.map(({ work }) =>
      command(router.partitionFor(work.executionId), "del", router.execKeys(work.executionId).fanOut),
    ),
  );
}

function byId(left: EdgeWork, right: EdgeWork): number {
  if (left.edge === right.edge) return 0;
  return left.edge < right.edge ? -1 : 1;
}
