/** The members of a cancelled flow that are still to be cancelled, in pages. */

import { command, type Pipelines } from "#shared/contract/command.ts";
import type { FlowKeys, IndexKeys } from "#shared/contract/keys.ts";
import { fieldText } from "#shared/contract/record.ts";
import { ackCancelMember } from "#shared/contract/upkeep.ts";
import { ProtocolError } from "#shared/errors.ts";
import { chunked, valueOrThrow } from "#shared/valkey/batches.ts";

const PAGE = 500;
const FUNCTION_MISSING = /^ERR Function not found/;

/** Splits a list of members into pages. */
export function pagesOf(members: readonly string[]): Iterable<string[]> {
  return chunked(members, () => 1, PAGE);
}

/**
 * Reads the members of a flow that was cancelled before: the pending ones, or all members where the library records none.
 * Each member is in one page. Members that are removed meanwhile may be missing. Throws a ValkeyError.
 */
export async function* memberPages(
  valkey: Pipelines,
  flow: FlowKeys,
  index: IndexKeys,
): AsyncGenerator<string[]> {
  const set = (await recordsPending(valkey, flow, index)) ? flow.pendingCancels : flow.members;
  const seen = new Set<string>();
  let cursor = "0";
  do {
    const [result] = await valkey.pipelined([command(flow.partition, "sscan", set, cursor, "COUNT", PAGE)]);
    const reply = valueOrThrow(result);
    const [next, found] = Array.isArray(reply) ? (reply as readonly unknown[]) : [];
    if (typeof next !== "string" || !Array.isArray(found)) {
      throw new ProtocolError("SSCAN did not reply with a cursor and an array");
    }
    // SSCAN may return a member twice, and a small set whole.
    const fresh = found.map(fieldText).filter((member) => !seen.has(member));
    for (const member of fresh) seen.add(member);
    yield* pagesOf(fresh);
    cursor = next;
  } while (cursor !== "0");
}

/** Whether the library records pending members. FlowFabric's versions 5 and 6 do not, and lack the function. */
async function recordsPending(valkey: Pipelines, flow: FlowKeys, index: IndexKeys): Promise<boolean> {
  // Removes no member. If none is pending, it removes the flow from the backlog, where it is not needed any more.
  const [result] = await valkey.pipelined([ackCancelMember(flow, index, "")]);
  if (result !== undefined && !result.ok && FUNCTION_MISSING.test(result.error.message)) return false;
  valueOrThrow(result);
  return true;
}
