import { randomUUID } from "node:crypto";
import { applyDependencyToChild } from "#shared/contract/submission.ts";
import { mintExecutionId, unwrap } from "#shared/ids.ts";
import { ExecKeys } from "#shared/keys.ts";
import type { Plan } from "#shared/submission/plan.ts";
import type { ValkeyCommand } from "#shared/valkey/command.ts";

/**
 * A call that fails where the loaded library is of another edition than the plan's, and else is refused and writes
 * nothing: an edge for a child that does not exist. None for a plan without edges.
 *
 * A child is created and gets its edges in one transaction, and Valkey rolls none back: an edge that failed there
 * would leave a child that waits for nothing.
 */
export function editionProbe({ edition, flow, index, tasks }: Plan): ValkeyCommand[] {
  for (const { task, incoming } of tasks) {
    const [edge] = incoming;
    if (edge === undefined) continue;
    const nobody = new ExecKeys(flow.partition, unwrap(mintExecutionId(flow.partition, randomUUID())));
    return [applyDependencyToChild(edition, flow, nobody, index, task.lane, edge, 0, Date.now())];
  }
  return [];
}
