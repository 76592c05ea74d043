/** Finds the executions of lanes without a ready queue. */

import { idsUpTo } from "#sdk/scored-members.ts";
import { listOf } from "#sdk/worker/leasing.ts";
import { command, type Pipelines } from "#shared/contract/command.ts";
import { type ExecutionId, type LaneId, parseExecutionId, parseStoredFlowId } from "#shared/contract/ids.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText } from "#shared/contract/record.ts";
import type { ReadyExecution } from "#shared/ready/message.ts";
import { serverTimeMs } from "#shared/valkey/server-time.ts";

/** Commands per lane and partition. */
const READS = 4;
/** A lease that was revoked is in no index: a sample of the active executions finds it after a while. */
const SAMPLE = 10;

/**
 * Returns executions of a lane that may be claimed: eligible ones, the highest priority first, due retries, and those whose
 * lease has run out or was revoked. At most `limit` of each per partition. Takes one round trip for all partitions, and another one if there
 * are any. A partition that cannot be read is left out.
 *
 * `lease_expiry` also lists the executions of other lanes: their records show the lane.
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
      const { eligible, delayed, active } = index.lane(lane);
      return [
        command(partition, "zrange", eligible, 0, limit - 1),
        command(partition, "zrange", delayed, 0, limit - 1, "withscores"),
        command(partition, "zrange", index.leaseExpiry, 0, limit - 1, "withscores"),
        command(partition, "zrandmember", active, SAMPLE),
      ];
    }),
  ]);
  const [time, ...pages] = results.map((result) => (result.ok ? result.value : undefined));
  if (time === undefined) return [];
  const nowMs = serverTimeMs(time);
  const claimable = partitions.flatMap((_, at) => {
    const [eligible, delayed, expired] = pages.slice(READS * at, READS * (at + 1));
    return [...listOf(eligible), ...idsUpTo(nowMs, delayed), ...idsUpTo(nowMs, expired)];
  });
  const sampled = partitions.flatMap((_, at) => [...listOf(pages[READS * at + READS - 1])]);
  return ofLane({ valkey, router }, lane, idsOf(claimable), idsOf(sampled));
}

function idsOf(members: readonly unknown[]): ExecutionId[] {
  return [...new Set(members)].flatMap((member) => {
    const parsed = parseExecutionId(member);
    return parsed.ok ? [parsed.value] : [];
  });
}

/** Those whose records have this lane, with their flows. Of the sampled ones, those whose lease was revoked. */
async function ofLane(
  { valkey, router }: { readonly valkey: Pipelines; readonly router: PartitionRouter },
  lane: LaneId,
  claimable: readonly ExecutionId[],
  sampled: readonly ExecutionId[],
): Promise<ReadyExecution[]> {
  const ids = [...new Set([...claimable, ...sampled])];
  if (ids.length === 0) return [];
  const records = await valkey.pipelined(
    ids.map((id) => {
      const { partition, core } = router.execKeys(id);
      return command(partition, "hmget", core, "lane_id", "execution_kind", "flow_id", "ownership_state");
    }),
  );
  return ids.flatMap((executionId, at): ReadyExecution[] => {
    const record = records[at];
    const fields = record?.ok ? listOf(record.value).map(fieldText) : [];
    const [laneId = "", kind = "", flowText = "", ownership = ""] = fields;
    if (laneId !== lane || (at >= claimable.length && ownership !== "lease_revoked")) return [];
    const flowId = flowText === "" ? undefined : parseStoredFlowId(flowText);
    return flowId?.ok === false ? [] : [{ executionId, flowId: flowId?.value, lane, kind }];
  });
}
