import { readAll } from "#operate/lanes/read-all.ts";
import type { OperateContext } from "#operate/operation.ts";
import { command } from "#shared/contract/command.ts";
import type { Partition } from "#shared/contract/ids.ts";
import type { TaskName } from "#shared/reconcile/task-names.ts";
import { serverTimeMs } from "#shared/valkey/server-time.ts";

/**
 * Counts what waits for a task that is not previewed: cancelled flows with members left and groups with siblings left, or ended flows
 * whose retention is over. Throws a ValkeyError.
 */
export async function countWaiting(
  { valkey, router }: OperateContext,
  task: TaskName,
  partitions: readonly Partition[],
  retentionMs: number,
): Promise<Record<string, number>> {
  const nowMs = serverTimeMs(await valkey.call("time"));
  const keys = partitions.map((partition) => router.indexKeys(partition));
  const sum = async (...commands: Parameters<typeof readAll>[1]): Promise<number> =>
    (await readAll(valkey, commands)).reduce((total: number, count) => total + Number(count), 0);
  if (task === "cancellations") {
    return {
      CancelledFlowsWaiting: await sum(
        ...keys.map((index) => command(index.partition, "zcount", index.cancelBacklog, "-inf", nowMs)),
      ),
      CancelGroupsWaiting: await sum(
        ...keys.map((index) => command(index.partition, "scard", index.pendingCancelGroups)),
      ),
    };
  }
  if (retentionMs === 0) return { EndedFlowsWaiting: 0 };
  return {
    EndedFlowsWaiting: await sum(
      ...keys.map((index) =>
        command(index.partition, "zcount", index.flowsEnded, "-inf", nowMs - retentionMs),
      ),
    ),
  };
}
