/** Finds the executions of lanes without a ready queue. */

import { idsUpTo } from "#sdk/scored-members.ts";
import { listOf } from "#sdk/worker/leasing.ts";
import { command, type Pipelines } from "#shared/contract/command.ts";
import { type LaneId, parseExecutionId } from "#shared/contract/ids.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import type { ReadyExecution } from "#shared/ready/message.ts";
import { serverTimeMs } from "#shared/valkey/server-time.ts";

/** Commands per lane and partition. */
const READS = 3;

/**
 * Returns executions of a lane that may be claimed: eligible ones, the highest priority first, due retries, and those whose
 * lease has run out. At most `limit` of each per partition. Takes one round trip for all partitions. A partition that cannot
 * be read is left out.
 *
 * The record decides whether an execution can be claimed: `lease_expiry` also lists those of other lanes.
 */
export async function poll(
  { valkey, router }: { readonly valkey: Pipelines; readonly router: PartitionRouter },
  lane: LaneId,
  limit: number,
): Promise<ReadyExecution[]> {
  const { partitions } = router;
  const results = await valkey.pipelined([
    ...partitions.slice(0, 1).map((partition) => command(partition, "time")),
    ...partitions.flatMap((partition) => {
      const index = router.indexKeys(partition);
      const { eligible, delayed } = index.lane(lane);
      return [
        command(partition, "zrange", eligible, 0, limit - 1),
        command(partition, "zrange", delayed, 0, limit - 1, "withscores"),
        command(partition, "zrange", index.leaseExpiry, 0, limit - 1, "withscores"),
      ];
    }),
  ]);
  const [time, ...pages] = results.map((result) => (result.ok ? result.value : undefined));
  if (time === undefined) return [];
  const nowMs = serverTimeMs(time);
  const ids = partitions.flatMap((_, at) => {
    const [eligible, delayed, expired] = pages.slice(READS * at, READS * (at + 1));
    return [...listOf(eligible), ...idsUpTo(nowMs, delayed), ...idsUpTo(nowMs, expired)];
  });
  return ids.flatMap((id): ReadyExecution[] => {
    const parsed = parseExecutionId(id);
    return parsed.ok ? [{ executionId: parsed.value, flowId: undefined, lane, kind: "" }] : [];
  });
}
