import type { ClaimDependencies, WorkSource } from "#sdk/worker/claim.ts";
import { command } from "#shared/contract/command.ts";
import { parseExecutionId } from "#shared/contract/ids.ts";
import { promoteDelayed } from "#shared/contract/ownership.ts";
import { pairResults } from "#shared/contract/results.ts";
import { noResult, replyOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";

const DEFAULT_LIMIT = 100;

/**
 * Makes delayed executions of one lane and partition eligible once their delay is over, the earliest first. Returns
 * how many were promoted. A refusal is not an error: another worker was faster, or this clock is ahead of the server's.
 *
 * @param options `nowMs`: milliseconds since the epoch, the current time by default; `limit`: the largest number of
 * executions to promote, 100 by default.
 * @throws ValkeyError if a call fails. A later call continues.
 *
 * @example
 * await promoteDue({ valkey, router }, { partition, lane });
 */
export async function promoteDue(
  { valkey, router }: Pick<ClaimDependencies, "valkey" | "router">,
  { partition, lane }: WorkSource,
  { nowMs = Date.now(), limit = DEFAULT_LIMIT }: { readonly nowMs?: number; readonly limit?: number } = {},
): Promise<number> {
  const index = router.indexKeys(partition);
  const { delayed } = index.lane(lane);
  const [due] = await valkey.pipelined([
    command(partition, "zrange", delayed, "-inf", nowMs, "byscore", "limit", 0, limit),
  ]);
  const ids = valueOrThrow(due);
  const calls = (Array.isArray(ids) ? ids : []).flatMap((id: unknown) => {
    const parsed = parseExecutionId(id);
    if (!parsed.ok) return [];
    return [promoteDelayed({ keys: router.execKeys(parsed.value), index, lane }, nowMs)];
  });
  if (calls.length === 0) return 0;
  const results = pairResults(calls, await valkey.pipelined(calls), noResult);
  return results.filter(({ result }) => replyOrThrow(valueOrThrow(result)).kind === "done").length;
}
