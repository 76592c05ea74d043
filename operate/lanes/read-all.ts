import type { Pipelines, ValkeyCommand } from "#shared/contract/command.ts";
import { chunked, sendChunks, valueOrThrow } from "#shared/valkey/batches.ts";

/** Runs commands in bounded pipelines, two in flight. Returns their values in order. Throws a ValkeyError if one fails. */
export async function readAll(valkey: Pipelines, commands: readonly ValkeyCommand[]): Promise<unknown[]> {
  const values = await sendChunks(chunked(commands), async (chunk) => {
    const results = await valkey.pipelined(chunk);
    return chunk.map((_, position) => valueOrThrow(results[position]));
  });
  return values.flat();
}
