import type { ClaimDependencies, WorkSource } from "#sdk/worker/claim.ts";
import { command, type ValkeyResult } from "#shared/contract/command.ts";
import { parseExecutionId } from "#shared/contract/ids.ts";
import { promoteDelayed } from "#shared/contract/ownership.ts";
import { pairResults } from "#shared/contract/results.ts";
import { isRecordError, ValkeyError } from "#shared/errors.ts";
import { doneOrThrow, noResult, valueOrThrow } from "#shared/valkey/batches.ts";

const DEFAULT_LIMIT = 100;

/**
 * Makes delayed executions of one lane and partition eligible once their delay is over, the earliest first. Returns
 * how many were promoted. The server's clock decides, because `ff_promote_delayed` trusts the time that it gets.
 *
 * @param options `limit`: the largest number of executions to promote, 100 by default.
 * @throws ValkeyError if a call fails. A later call continues.
 *
 * @example
 * await promoteDue({ valkey, router }, { partition, lane });
 */
export async function promoteDue(
  { valkey, router }: Pick<ClaimDependencies, "valkey" | "router">,
  { partition, lane }: WorkSource,
  { limit = DEFAULT_LIMIT }: { readonly limit?: number } = {},
): Promise<number> {
  const index = router.indexKeys(partition);
  const { delayed } = index.lane(lane);
  for (let offset = 0; ; offset += limit) {
    const [time, page] = await valkey.pipelined([
      command(partition, "time"),
      command(partition, "zrange", delayed, offset, offset + limit - 1, "withscores"),
    ]);
    const nowMs = milliseconds(valueOrThrow(time));
    const due = idsUpTo(nowMs, valueOrThrow(page));
    const calls = due.flatMap((id) => {
      const parsed = parseExecutionId(id);
      if (!parsed.ok) return [];
      return [promoteDelayed({ keys: router.execKeys(parsed.value), index, lane }, nowMs)];
    });
    const replies = calls.length === 0 ? [] : await valkey.pipelined(calls);
    const promoted = pairResults(calls, replies, noResult).filter(({ result }) => isPromoted(result)).length;
    // If no execution of a whole page can be promoted, go on to the next one: the page would hide all later ones.
    if (promoted > 0 || due.length < limit) return promoted;
  }
}

function isPromoted(result: ValkeyResult): boolean {
  // An execution whose record is unreadable is skipped, so that it does not hide the others.
  if (!result.ok && isRecordError(result.error)) return false;
  const { fields } = doneOrThrow("ff_promote_delayed", valueOrThrow(result));
  return fields[0] === "promoted";
}

/** The reply of TIME, `[seconds, microseconds]`, in milliseconds since the epoch. */
function milliseconds(time: unknown): number {
  const [seconds, micros] = Array.isArray(time) ? time.map(Number) : [];
  const nowMs = Math.floor((seconds ?? Number.NaN) * 1_000 + (micros ?? Number.NaN) / 1_000);
  if (Number.isSafeInteger(nowMs)) return nowMs;
  throw new ValkeyError(`the server replied an invalid time: ${JSON.stringify(time)}`);
}

/** The members with a score of at most `limit`, from a reply of ZRANGE WITHSCORES. */
function idsUpTo(limit: number, membersAndScores: unknown): unknown[] {
  const flat: readonly unknown[] = Array.isArray(membersAndScores) ? membersAndScores : [];
  return flat.filter((_, position) => position % 2 === 0 && Number(flat[position + 1]) <= limit);
}
