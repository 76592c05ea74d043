import type { ClaimDependencies, WorkSource } from "#sdk/worker/claim.ts";
import { command } from "#shared/contract/command.ts";
import { parseExecutionId } from "#shared/contract/ids.ts";
import { promoteDelayed } from "#shared/contract/ownership.ts";
import { replyOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";

const DEFAULT_LIMIT = 100;

/**
 * Makes delayed executions of one lane and partition eligible whose time has come, the earliest first, and
 * returns how many. A refusal is another worker's success, or a clock of ours that is ahead of the server's.
 * `nowMs` (milliseconds since the epoch) is the present unless given. Throws a ValkeyError.
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
  const results = await valkey.pipelined(calls);
  return results.filter((result) => replyOrThrow(valueOrThrow(result)).kind === "done").length;
}
