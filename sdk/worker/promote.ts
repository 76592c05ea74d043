import { idsUpTo } from "#sdk/scored-members.ts";
import type { ClaimDependencies, WorkSource } from "#sdk/worker/leasing.ts";
import { command, type ValkeyResult } from "#shared/contract/command.ts";
import { parseExecutionId } from "#shared/contract/ids.ts";
import { promoteDelayed } from "#shared/contract/ownership.ts";
import { pairResults } from "#shared/contract/results.ts";
import { isRecordError } from "#shared/errors.ts";
import { doneOrThrow, noResult, valueOrThrow } from "#shared/valkey/batches.ts";
import { serverTimeMs } from "#shared/valkey/server-time.ts";

const DEFAULT_LIMIT = 100;

/**
 * Makes delayed executions of one lane and partition eligible once their delay is over, the earliest first. Returns
 * how many were promoted. The server's clock decides, because `ff_promote_delayed` trusts the time that it gets.
 *
 * @param options `limit`: the largest number of executions to promote, 100 by default.
 * @throws ValkeyError if a call fails. A later call continues.
 *
 * @example
 * await promoteDue(sluice, { partition, lane });
 */
export async function promoteDue(
  { valkey, router }: Pick<ClaimDependencies, "valkey" | "router">,
  { partition, lane }: WorkSource,
  { limit = DEFAULT_LIMIT }: { readonly limit?: number } = {},
): Promise<number> {
  const index = router.indexKeys(partition);
  const { delayed } = index.lane(lane);
  for (let offset = 0; ; ) {
    const [time, page] = await valkey.pipelined([
      command(partition, "time"),
      command(partition, "zrange", delayed, offset, offset + limit - 1, "withscores"),
    ]);
    const nowMs = serverTimeMs(valueOrThrow(time));
    const due = idsUpTo(nowMs, valueOrThrow(page));
    const calls = due.flatMap((id) => {
      const parsed = parseExecutionId(id);
      if (!parsed.ok) return [];
      return [promoteDelayed({ keys: router.execKeys(parsed.value), index, lane }, nowMs)];
    });
    const replies = calls.length === 0 ? [] : await valkey.pipelined(calls);
    const words = pairResults(calls, replies, noResult).map(({ result }) => wordOf(result));
    const promoted = words.filter((word) => word === "promoted").length;
    if (promoted > 0 || due.length < limit) return promoted;
    // No execution of a whole page can be promoted, and the page would hide all later ones: go on behind it. Entries that
    // the function cleaned have left the index.
    offset += due.length - words.filter((word) => word?.endsWith("_cleaned")).length;
  }
}

/** What `ff_promote_delayed` did. Undefined if the record is unreadable: it is skipped, and does not hide the others. */
function wordOf(result: ValkeyResult): string | undefined {
  if (!result.ok && isRecordError(result.error)) return undefined;
  return doneOrThrow("ff_promote_delayed", valueOrThrow(result)).fields[0];
}
