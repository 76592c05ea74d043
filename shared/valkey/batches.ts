/** Sending many commands in bounded pipelines, and taking every reply seriously. */

import type { Pipelines, ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";
import { decodeReply, type Reply } from "#shared/contract/reply.ts";
import { RefusedError, type SluiceError, ValkeyError } from "#shared/errors.ts";

/** Commands in one pipeline: enough to make the round trip cheap, few enough for the server's buffers. */
export const MAX_PIPELINE_LENGTH = 1_000;

/** Groups items in order, each group up to `limit` in weight; a heavier item makes a group of its own. */
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
 * Hands over the chunks in order, each while the one before it is still under way, and no more than that.
 * When one fails no further is sent, and the other one is waited for.
 */
export async function sendChunks<T, R>(chunks: Iterable<T>, send: (chunk: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  // Settled results, so that a chunk that fails while the one before it is awaited is no unhandled rejection.
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

/** Sends one command for each item; values are in the items' order. Throws a ValkeyError. */
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

/** A command's value. Throws a ValkeyError where the command failed. */
export function valueOrThrow(result: ValkeyResult | undefined): unknown {
  if (result?.ok) return result.value;
  const cause = result?.error ?? new Error("the pipeline gave no result for a command");
  throw new ValkeyError(cause.message, { cause });
}

/** A function's reply. Throws a ProtocolError where it is none. */
export function replyOrThrow(value: unknown): Reply {
  const decoded = decodeReply(value);
  if (!decoded.ok) throw decoded.error;
  return decoded.value;
}

/** A reply that is not a refusal. Throws a RefusedError for one, a ProtocolError for no reply at all. */
export function doneOrThrow(functionName: string, value: unknown): Extract<Reply, { kind: "done" }> {
  const reply = replyOrThrow(value);
  if (reply.kind === "done") return reply;
  throw refusalError(functionName, reply);
}

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
