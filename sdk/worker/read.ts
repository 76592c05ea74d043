import type { Pipelines, ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";
import { valueOrThrow } from "#shared/valkey/batches.ts";

const TRIES = 3;

/**
 * Reads, and reads again what failed: between a claim and its end a worker that gives up leaves a lease
 * behind. Values are in the commands' order. Throws a ValkeyError after three tries.
 */
export async function readPersistently(
  valkey: Pipelines,
  commands: readonly ValkeyCommand[],
): Promise<unknown[]> {
  const results = new Map<ValkeyCommand, ValkeyResult>();
  let open = commands;
  for (let attempt = 0; attempt < TRIES && open.length > 0; attempt += 1) {
    const replies = await valkey.pipelined(open);
    for (const [position, asked] of open.entries()) {
      const reply = replies[position];
      if (reply !== undefined) results.set(asked, reply);
    }
    open = open.filter((asked) => results.get(asked)?.ok !== true);
  }
  return commands.map((asked) => valueOrThrow(results.get(asked)));
}
