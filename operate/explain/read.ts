/** What the readers of `explain` share. All of them send commands that only read. */

import type { OperateContext } from "#operate/operation.ts";
import { shellWord } from "#operate/words.ts";
import { textsOf } from "#shared/consistency/read.ts";
import { command, type ValkeyCommand } from "#shared/contract/command.ts";
import type { ExecutionId, Partition } from "#shared/contract/ids.ts";
import { fieldText } from "#shared/contract/record.ts";
import { ProtocolError } from "#shared/errors.ts";
import { valueOrThrow } from "#shared/valkey/batches.ts";

/** What `explain` works on. */
export type ExplainContext = OperateContext;

/** Entries of a set that are read together. */
export const PAGE = 1_000;

/** Reads the named fields of a hash; a missing one is empty. */
export function hashRead<Name extends string>(
  partition: Partition,
  key: string,
  names: readonly Name[],
): ValkeyCommand {
  return command(partition, "hmget", key, ...names);
}

/** The reply of `hashRead` by name. */
export function hashOf<Name extends string>(
  names: readonly Name[],
  reply: unknown,
): Readonly<Record<Name, string>> {
  const values = textsOf(reply);
  return Object.fromEntries(names.map((name, position) => [name, values[position] ?? ""])) as Record<
    Name,
    string
  >;
}

/** One page of a set: its members, and the cursor of the next page, `0` at the end. A member may be read twice. */
export async function readSetPage(
  { valkey }: Pick<ExplainContext, "valkey">,
  { partition, key }: { readonly partition: Partition; readonly key: string },
  cursor: string,
  count = PAGE,
): Promise<{ readonly next: string; readonly members: string[] }> {
  const [result] = await valkey.pipelined([command(partition, "sscan", key, cursor, "COUNT", count)]);
  const reply = valueOrThrow(result);
  const [next, members]: readonly unknown[] = Array.isArray(reply) ? reply : [];
  if (!Array.isArray(members)) throw new ProtocolError(`SSCAN ${key} did not reply with a page`);
  return { next: fieldText(next), members: members.map(fieldText) };
}

/** All members of a set, in pages and each once, until the deadline. `isComplete` is false if time ran out. */
export async function forEachPage(
  context: Pick<ExplainContext, "valkey" | "deadlineMs">,
  set: { readonly partition: Partition; readonly key: string },
  onPage: (members: readonly string[]) => Promise<void>,
): Promise<boolean> {
  const seen = new Set<string>();
  let cursor = "0";
  do {
    if (Date.now() > context.deadlineMs - RESERVE_MS) return false;
    const { next, members } = await readSetPage(context, set, cursor);
    const fresh = members.filter((member) => !seen.has(member));
    for (const member of fresh) seen.add(member);
    if (fresh.length > 0) await onPage([...new Set(fresh)]);
    cursor = next;
  } while (cursor !== "0");
  return true;
}

/** Kept free for the rest of the answer. */
const RESERVE_MS = 1_500;

/** Whether there is time for another step. */
export function hasTime({ deadlineMs }: Pick<ExplainContext, "deadlineMs">): boolean {
  return Date.now() < deadlineMs - RESERVE_MS;
}

/** A command line that names executions, flows or lanes. */
export function sluice(...words: readonly string[]): string {
  return ["sluice", ...words.map(shellWord)].join(" ");
}

/** The UUID of an execution id. */
export function uuidOf(id: ExecutionId): string {
  return id.slice(id.indexOf("}:") + 2);
}

/** An execution in a sentence: its task's name, if it has one, and its id. */
export function nameOf(id: string, task: string): string {
  return task === "" ? id : `${task} (${id})`;
}
