/** The Valkey deployments that tests run on, and readers of a partition's content. */

import { inject } from "vitest";
import { command, type ValkeyArgument } from "#shared/contract/command.ts";
import type { Edition } from "#shared/contract/edition.ts";
import type { Partition } from "#shared/contract/ids.ts";
import type { ValkeyAddress } from "#shared/valkey/address.ts";
import { Valkey } from "#shared/valkey/client.ts";

export interface Deployment {
  readonly name: "standalone" | "cluster";
  /** The edition of the loaded library. */
  readonly edition: Edition;
  readonly address: ValkeyAddress;
  /** Opens a new client, which the caller closes. A connection error fails the test. */
  connect(): Valkey;
}

function deployment(name: Deployment["name"], edition: Edition, url: string): Deployment {
  const address: ValkeyAddress = { url: new URL(url), cluster: name === "cluster" };
  return { name, edition, address, connect: () => connectTo(address) };
}

/** Deployments with the 11-KEYS edition, for `describe.each`. Titles can use `$name` and `$edition`. */
export const DEPLOYMENTS: readonly Deployment[] = [
  deployment("standalone", 11, inject("standaloneUrl")),
  deployment("cluster", 11, inject("clusterUrl")),
];

/** Deployments with the 14-KEYS edition. */
export const DEPLOYMENTS_14: readonly Deployment[] = [
  deployment("standalone", 14, inject("standalone14Url")),
  deployment("cluster", 14, inject("cluster14Url")),
];

/** Deployments with either edition. */
export const DEPLOYMENTS_OF_BOTH: readonly Deployment[] = [...DEPLOYMENTS, ...DEPLOYMENTS_14];

export function connectTo(address: ValkeyAddress): Valkey {
  return new Valkey(address, {
    onConnectionError: (error) => {
      throw error;
    },
  });
}

/** Runs a command on all primaries concurrently. Rejects if any of them fails. */
export async function onEveryPrimary(
  valkey: Valkey,
  name: string,
  ...args: ValkeyArgument[]
): Promise<unknown[]> {
  return Promise.all((await valkey.primaries()).map((node) => node.call(name, ...args)));
}

/** Sends one command to a partition's node, and returns its value. Throws a ValkeyError. */
export async function run(
  valkey: Valkey,
  partition: Partition,
  name: string,
  ...args: ValkeyArgument[]
): Promise<unknown> {
  const [result] = await valkey.pipelined([command(partition, name, ...args)]);
  if (result === undefined) throw new Error("no result for the command");
  if (!result.ok) throw result.error;
  return result.value;
}

/** Commands that read a complete value, by its type. */
const READERS: Readonly<Record<string, readonly [name: string, ...args: string[]]>> = {
  string: ["get"],
  hash: ["hgetall"],
  set: ["smembers"],
  zset: ["zrange", "0", "-1", "WITHSCORES"],
  stream: ["xrange", "-", "+"],
};

export interface StoredValue {
  readonly type: string;
  readonly value: unknown;
  /** Milliseconds since the epoch, or −1 without an expiry. */
  readonly expiresAt: unknown;
}

/** Reads all keys of a partition with value and expiry. Two snapshots are equal if nothing was written in between. */
export async function snapshot(valkey: Valkey, partition: Partition): Promise<Record<string, StoredValue>> {
  const keys = (await keysOf(valkey, partition)).sort(byText);
  return Object.fromEntries(
    await Promise.all(
      keys.map(async (key): Promise<[string, StoredValue]> => {
        const type = String(await run(valkey, partition, "type", key));
        const [reader, ...rest] = READERS[type] ?? ["dump"];
        const [value, expiresAt] = await Promise.all([
          run(valkey, partition, reader, key, ...rest),
          run(valkey, partition, "pexpiretime", key),
        ]);
        return [key, { type, value: canonical(type, value), expiresAt }];
      }),
    ),
  );
}

/** Returns the names of all keys of a partition. */
export async function keysOf(valkey: Valkey, partition: Partition): Promise<string[]> {
  const found = new Set<string>();
  for (const node of await valkey.primaries()) {
    let cursor = "0";
    do {
      const reply = await node.call("scan", cursor, "MATCH", `*:{fp:${partition}}*`, "COUNT", 5_000);
      if (!Array.isArray(reply) || !Array.isArray(reply[1]))
        throw new Error("SCAN returned a malformed reply");
      const names: readonly unknown[] = reply[1];
      for (const name of names) found.add(String(name));
      cursor = String(reply[0]);
    } while (cursor !== "0");
  }
  return [...found];
}

/** Converts a reply of HGETALL, a list of alternating names and values, to an object. */
export function fieldsOf(flat: unknown): Record<string, string> {
  if (!Array.isArray(flat)) throw new TypeError("the reply of HGETALL is not an array");
  const words = flat.map(String);
  return Object.fromEntries(
    words.flatMap((word, at) => (at % 2 === 0 ? [[word, words[at + 1] ?? ""] as const] : [])),
  );
}

function canonical(type: string, value: unknown): unknown {
  if (type === "hash") return fieldsOf(value);
  return type === "set" && Array.isArray(value) ? value.map(String).sort(byText) : value;
}

function byText(left: string, right: string): number {
  if (left === right) return 0;
  return left < right ? -1 : 1;
}
