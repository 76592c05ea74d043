import type { Redis } from "iovalkey";
import {
  parseAttemptIndex,
  parseEdgeId,
  parseExecutionId,
  parseLaneId,
  unwrap,
} from "#shared/contract/ids.ts";
import type { CompletionEvent } from "#shared/contract/message.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText, isTerminalOutcome } from "#shared/contract/record.ts";
import { decodeResolution, resolveDependency } from "#shared/contract/resolve.ts";

/**
 * A dispatcher that sends one command at a time: two reads for the execution, and for each edge its child, the child's
 * lane, the child's attempt, and the call; 2 + 4N round trips for N edges. It uses the same client library, keys, call and
 * decoder as Sluice's dispatcher. Returns the number of skipped children.
 */
export async function dispatchSequentially(
  client: Redis,
  router: PartitionRouter,
  { executionId, flowId }: CompletionEvent,
): Promise<number> {
  if (flowId === undefined) return 0;
  const flow = router.flowKeys(flowId);
  const flowIndex = router.indexKeys(flow.partition);
  const outcome = fieldText(await client.hget(router.execKeys(executionId).core, "terminal_outcome"));
  if (!isTerminalOutcome(outcome)) throw new Error(`the execution has the outcome "${outcome}"`);
  const nowMs = Date.now();
  let skipped = 0;
  for (const id of await client.smembers(flow.outgoing(executionId))) {
    const edge = unwrap(parseEdgeId(id));
    const target = await client.hget(flow.edge(edge), "downstream_execution_id");
    const child = router.execKeys(unwrap(parseExecutionId(target)));
    const lane = unwrap(parseLaneId(await client.hget(child.core, "lane_id")));
    const attempt = unwrap(parseAttemptIndex(await client.hget(child.core, "current_attempt_index")));
    const { name, args } = resolveDependency(
      { edge, upstream: executionId, flow, flowIndex, child, lane: flowIndex.lane(lane), attempt },
      { outcome, completedAt: "" },
      nowMs,
    );
    const resolution = decodeResolution(await client.call(name, [...args]));
    if (!resolution.ok) throw resolution.error;
    if (resolution.value.kind === "refused") throw new Error(`refused: ${resolution.value.code}`);
    if (resolution.value.kind === "impossible" && resolution.value.childSkipped) skipped += 1;
  }
  return skipped;
}
