/** Sends many commands in bounded pipelines, and turns failed results and refusals into errors. */

import type { Pipelines, ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";
import { decodeReply, type Reply } from "#shared/contract/reply.ts";
import { NotReplicatedError, RefusedError, type SluiceError, ValkeyError } from "#shared/errors.ts";

/** Commands per pipeline: enough to amortize the round trip, few enough for the server's buffers. */
export const MAX_PIPELINE_LENGTH = 1_000;

/** Splits items into chunks of at most `limit` in weight, in order. An item above the limit is a separate chunk. */
export function* chunked<T>(
  items: readonly T[],
  weigh: (item: T) => number = () => 1,
  limit: number = MAX_PIPELINE_LENGTH,
): Generator<T[]> {
  let chunk: T[] = [];
  let weight = 0;
  for (const item of items) {
    const own = weigh(item);
    if (chunk.length > 0 && weight + own > limit) {
      yield chunk;
      chunk = [];
      weight = 0;
    }
    chunk.push(item);
    weight += own;
  }
  if (chunk.length > 0) yield chunk;
}

/**
 * Sends chunks in order, with at most two in flight. If one fails, no further chunk is sent. Waits for the other one in
 * flight, then rejects with the first error. Returns one result per chunk, in order.
 */
export async function sendChunks<T, R>(chunks: Iterable<T>, send: (chunk: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  // allSettled: a chunk may fail while its predecessor is awaited, which would be an unhandled rejection.
  let last: Promise<PromiseSettledResult<R>[]> = Promise.resolve([]);
  for (const chunk of chunks) {
    const next = Promise.allSettled([send(chunk)]);
    const [previous] = await last;
    if (previous?.status === "rejected") {
      await next;
      throw previous.reason;
    }
    if (previous !== undefined) results.push(previous.value);
    last = next;
  }
  const [final] = await last;
  if (final?.status === "rejected") throw final.reason;
  if (final !== undefined) results.push(final.value);
  return results;
}

/** Sends one command per item. Returns the values in the items' order. Throws a ValkeyError if a command fails. */
export async function readEach<T>(
  valkey: Pipelines,
  items: readonly T[],
  commandOf: (item: T) => ValkeyCommand,
): Promise<unknown[]> {
  const values: unknown[] = [];
  for (const chunk of chunked(items)) {
    const results = await valkey.pipelined(chunk.map(commandOf));
    for (const position of chunk.keys()) values.push(valueOrThrow(results[position]));
  }
  return values;
}

/**
 * Returns a command's value. Throws a NotReplicatedError if the command was executed but not confirmed, and a ValkeyError
 * if it failed or has no result.
 */
export function valueOrThrow(result: ValkeyResult | undefined): unknown {
  if (result?.ok) return result.value;
  if (result?.error instanceof NotReplicatedError) throw result.error;
  const cause = result?.error ?? new Error("the pipeline returned no result for a command");
  throw new ValkeyError(cause.message, { cause });
}

/** Decodes a function's reply. Throws a ProtocolError if it is malformed. */
export function replyOrThrow(value: unknown): Reply {
  const decoded = decodeReply(value);
  if (!decoded.ok) throw decoded.error;
  return decoded.value;
}

/** Decodes a successful reply. Throws a RefusedError for a refusal, and a ProtocolError for a malformed reply. */
export function doneOrThrow(functionName: string, value: unknown): Extract<Reply, { kind: "done" }> {
  const reply = replyOrThrow(value);
  if (reply.kind === "done") return reply;
  throw refusalError(functionName, reply);
}

/** Returns a refusal as an error. */
export function refusalError(
  functionName: string,
  reply: { readonly code: string; readonly detail: readonly string[] },
): SluiceError {
  return new RefusedError(functionName, reply.code, reply.detail);
}

/** The failure of a command for which the pipeline returned nothing. */
export function noResult(): ValkeyResult {
  return { ok: false, error: new Error("the pipeline returned no result for this command") };
}
