/** Reads keys in pages and pipelines, so that the check of a large partition needs little memory and few round trips. */

import {
  command,
  type Pipelines,
  type ValkeyArgument,
  type ValkeyCommand,
} from "#shared/contract/command.ts";
import type { Partition } from "#shared/contract/ids.ts";
import { fieldText } from "#shared/contract/record.ts";
import { ProtocolError } from "#shared/errors.ts";
import { chunked, readEach } from "#shared/valkey/batches.ts";

/** COUNT of SCAN, SSCAN and ZSCAN, and the size of the sets that are read as a whole. */
const PAGE = 500;
/** SCAN looks at this many keys in a call, whether they match or not. */
const SCAN_COUNT = 5_000;

/** A primary of the deployment. */
interface Primary {
  call(name: string, ...args: ValkeyArgument[]): Promise<unknown>;
}

/** What the check needs of a Valkey client. It sends only commands that read. */
export interface ConsistencyPorts {
  readonly valkey: Pipelines & { primaries(): Promise<readonly Primary[]> };
}

/** Reads the names of the keys that match a pattern, from every primary. A name may be returned twice. */
export async function* keysLike({ valkey }: ConsistencyPorts, pattern: string): AsyncGenerator<string[]> {
  for (const primary of await valkey.primaries()) {
    let cursor = "0";
    do {
      const [next, names] = pageOf(await primary.call("scan", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT));
      cursor = next;
      for (const page of chunked(names, () => 1, PAGE)) yield page;
    } while (cursor !== "0");
  }
}

/** A set or zset of a partition. */
export interface Collection {
  readonly partition: Partition;
  readonly key: string;
  readonly type: "set" | "zset";
}

/** Reads the members of a set or zset in pages. A member may be returned twice. */
export async function* membersOf(
  ports: ConsistencyPorts,
  { partition, key, type }: Collection,
): AsyncGenerator<string[]> {
  let cursor = "0";
  do {
    const name = type === "set" ? "sscan" : "zscan";
    const [reply] = await readAll(ports, [command(partition, name, key, cursor, "COUNT", PAGE)]);
    const [next, entries] = pageOf(reply);
    cursor = next;
    // Members and scores of a zset alternate.
    const members = type === "set" ? entries : entries.filter((_, position) => position % 2 === 0);
    if (members.length > 0) yield members;
  } while (cursor !== "0");
}

/** Returns the command that reads one entry. Its reply is null or 0 if there is none. */
export function readEntry({ partition, key, type }: Collection, member: string): ValkeyCommand {
  return command(partition, type === "zset" ? "zscore" : "sismember", key, member);
}

/** A set that belongs to an item, and its size. */
export interface OwnedSet<T> {
  readonly owner: T;
  readonly set: Collection;
  readonly size: number;
}

/**
 * Reads the members of many sets, each with the owner of its set: many small sets in one round trip, large ones in pages.
 * A member of a large set may be returned twice.
 */
export async function* membersOfEach<T>(
  ports: ConsistencyPorts,
  sets: readonly OwnedSet<T>[],
): AsyncGenerator<{ readonly owner: T; readonly member: string }[]> {
  const small = sets.filter(({ size }) => size > 0 && size <= PAGE);
  for (const some of chunked(small, ({ size }) => size, PAGE)) {
    const replies = await readAll(
      ports,
      some.map(({ set }) => command(set.partition, "smembers", set.key)),
    );
    yield some.flatMap(({ owner }, position) =>
      textsOf(replies[position]).map((member) => ({ owner, member })),
    );
  }
  for (const { owner, set, size } of sets) {
    if (size <= PAGE) continue;
    for await (const page of membersOf(ports, set)) yield page.map((member) => ({ owner, member }));
  }
}

function pageOf(reply: unknown): [cursor: string, entries: string[]] {
  const [cursor, entries]: readonly unknown[] = Array.isArray(reply) ? reply : [];
  if (typeof cursor !== "string" || !Array.isArray(entries)) {
    throw new ProtocolError("a SCAN command did not reply with a cursor and an array");
  }
  return [cursor, entries.map(fieldText)];
}

/** Sends commands in bounded pipelines, and returns their replies. Throws a ValkeyError if one fails. */
export function readAll(
  { valkey }: ConsistencyPorts,
  commands: readonly ValkeyCommand[],
): Promise<unknown[]> {
  return readEach(valkey, commands, (one) => one);
}

/** Sends the commands of every item in bounded pipelines. Returns the replies of each item, in the items' order. */
export async function readOfEach<T>(
  ports: ConsistencyPorts,
  items: readonly T[],
  commandsOf: (item: T) => readonly ValkeyCommand[],
): Promise<unknown[][]> {
  const commands = items.map(commandsOf);
  const replies = await readAll(ports, commands.flat());
  let start = 0;
  return commands.map(({ length }) => {
    start += length;
    return replies.slice(start - length, start);
  });
}

/** Returns the reply of HMGET or SMEMBERS as texts. */
export function textsOf(value: unknown): string[] {
  return Array.isArray(value) ? value.map(fieldText) : [];
}
