/**
 * One sweep at a time, and where it stands.
 *
 * Both keys share a slot, so that one script can check the lease and write the place: a run whose lease went to
 * another one cannot write over that one's place. Whoever dies leaves a lease that expires by itself, and a place
 * from which everything is looked at again that was not known to be done.
 */

import { randomUUID } from "node:crypto";
import type { ValkeyArgument } from "#shared/contract/command.ts";
import { fieldText } from "#shared/contract/record.ts";
import { ProtocolError } from "#shared/errors.ts";

/** Ours, not the contract's, and in no partition. */
export const LEASE_KEY = "ff:reconcile:{sweep}:lease";
export const PLACE_KEY = "ff:reconcile:{sweep}:place";

/** Less than the minute between two runs, so that a dead one costs the next run nothing. */
export const LEASE_TTL_MS = 30_000;
/** How often a run that works renews its lease and keeps its place. */
export const KEEP_EVERY_MS = 2_000;
/** A place that nobody came back to is forgotten, and the next sweep begins at the beginning. */
const PLACE_TTL_SECONDS = 3_600;

/** KEYS lease, place; ARGV token, TTL in ms. Replies nil, or the place ("" for none) and the server's TIME. */
const TAKE = `
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return false end
local time = redis.call('TIME')
return { redis.call('GET', KEYS[2]) or '', time[1], time[2] }`;

/** KEYS lease, place; ARGV token, TTL in ms (0: gives the lease back), place ("": none), its TTL in s. Replies 1 or 0. */
const KEEP = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[3] == '' then redis.call('DEL', KEYS[2]) else redis.call('SET', KEYS[2], ARGV[3], 'EX', ARGV[4]) end
if ARGV[2] == '0' then redis.call('DEL', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1`;

/** What the reconciler asks of Valkey besides pipelines: commands whose keys are in no partition. */
export interface Calls {
  /** Rejects with what the server or the client raised. */
  call(name: string, ...args: ValkeyArgument[]): Promise<unknown>;
}

/** What was found when the lease was taken. */
export interface Taken {
  readonly lease: Lease;
  /** Where the run before stopped, as it was written; empty: nowhere, a new sweep begins. */
  readonly place: string;
  /** Milliseconds since the epoch, by the server's clock. */
  readonly serverNowMs: number;
}

/** Takes the lease, unless another run has it. Rejects with what the server or the client raised. */
export async function takeLease(valkey: Calls): Promise<Taken | undefined> {
  const token = randomUUID();
  const reply = await valkey.call("eval", TAKE, 2, LEASE_KEY, PLACE_KEY, token, LEASE_TTL_MS);
  if (reply === null) return undefined;
  const [place, seconds, microseconds] = Array.isArray(reply) ? reply.map(fieldText) : [];
  const serverNowMs = Number(seconds) * 1_000 + Math.floor(Number(microseconds) / 1_000);
  if (place === undefined || !Number.isSafeInteger(serverNowMs)) {
    throw new ProtocolError("taking the reconciler's lease was answered without a place and a time");
  }
  return { lease: new Lease(valkey, token), place, serverNowMs };
}

/** A lease that was taken. Each call replies whether it is still held, and writes nothing when it is not. */
export class Lease {
  readonly #valkey: Calls;
  readonly #token: string;

  constructor(valkey: Calls, token: string) {
    this.#valkey = valkey;
    this.#token = token;
  }

  /** Renews the lease, and writes down the place. */
  keep(place: string): Promise<boolean> {
    return this.#write(LEASE_TTL_MS, place);
  }

  /** Gives the lease back, and leaves the place to the next run; empty: the sweep is over. */
  release(place: string): Promise<boolean> {
    return this.#write(0, place);
  }

  async #write(ttlMs: number, place: string): Promise<boolean> {
    const args = [LEASE_KEY, PLACE_KEY, this.#token, ttlMs, place, PLACE_TTL_SECONDS];
    return (await this.#valkey.call("eval", KEEP, 2, ...args)) === 1;
  }
}
