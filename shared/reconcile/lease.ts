/**
 * The lease that lets one run of the reconciler work at a time, and the storage of the sweep's checkpoint.
 *
 * The keys share a slot, so one script checks the lease and writes the checkpoint: a run that has lost its lease
 * cannot overwrite the checkpoint of the run that holds it. A run that dies leaves a lease that expires, and a
 * checkpoint before anything that it had not finished.
 */

import { randomUUID } from "node:crypto";
import type { ValkeyArgument } from "#shared/contract/command.ts";
import { fieldText } from "#shared/contract/record.ts";
import { ProtocolError } from "#shared/errors.ts";

/** These keys are Sluice's own: they are not part of the contract, and belong to no partition. */
export const LEASE_KEY = "ff:reconcile:{sweep}:lease";
export const CHECKPOINT_KEY = "ff:reconcile:{sweep}:place";
/** When the last run released its lease: milliseconds since the epoch, by the server's clock. Does not expire. */
export const LAST_RUN_KEY = "ff:reconcile:{sweep}:last_run";

/** Shorter than the minute between two runs, so that the lease of a dead run does not block the next one. */
export const LEASE_TTL_MS = 30_000;
/** How often a run renews its lease and saves its checkpoint. */
export const RENEW_INTERVAL_MS = 2_000;
/** An older checkpoint expires, and the next sweep starts from the beginning. */
const CHECKPOINT_TTL_SECONDS = 3_600;

/**
 * KEYS: lease, checkpoint. ARGV: token, lease TTL in ms.
 * Replies nil if another run holds the lease, else the checkpoint ("" for none) and the server's TIME.
 */
const ACQUIRE = `
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return false end
local time = redis.call('TIME')
return { redis.call('GET', KEYS[2]) or '', time[1], time[2] }`;

/**
 * KEYS: lease, checkpoint, last run. ARGV: token, lease TTL in ms (0 releases the lease and records the run's end),
 * checkpoint ("" deletes it), checkpoint TTL in seconds. Replies 1, or 0 without a write if the token does not hold the
 * lease.
 */
const SAVE = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[3] == '' then redis.call('DEL', KEYS[2]) else redis.call('SET', KEYS[2], ARGV[3], 'EX', ARGV[4]) end
if ARGV[2] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) return 1 end
redis.call('DEL', KEYS[1])
local time = redis.call('TIME')
redis.call('SET', KEYS[3], string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000)))
return 1`;

/** Runs single commands whose keys belong to no partition. */
export interface CommandCaller {
  /** Rejects with the error of the server or the client. */
  call(name: string, ...args: ValkeyArgument[]): Promise<unknown>;
}

export interface AcquiredLease {
  readonly lease: Lease;
  /** The checkpoint of the previous run, unparsed. Empty if a new sweep begins. */
  readonly checkpoint: string;
  /** Milliseconds since the epoch, by the server's clock. */
  readonly serverNowMs: number;
}

/**
 * Acquires the lease; undefined if another run holds it. Rejects with the error of the server or the client, or with a
 * ProtocolError if the reply is malformed.
 */
export async function acquireLease(valkey: CommandCaller): Promise<AcquiredLease | undefined> {
  const token = randomUUID();
  const reply = await valkey.call("eval", ACQUIRE, 2, LEASE_KEY, CHECKPOINT_KEY, token, LEASE_TTL_MS);
  if (reply === null) return undefined;
  const [checkpoint, seconds, microseconds] = Array.isArray(reply) ? reply.map(fieldText) : [];
  const serverNowMs = Number(seconds) * 1_000 + Math.floor(Number(microseconds) / 1_000);
  if (checkpoint === undefined || !Number.isSafeInteger(serverNowMs)) {
    throw new ProtocolError("acquiring the reconciler's lease: the reply has no checkpoint or no time");
  }
  return { lease: new AcquiredToken(valkey, token), checkpoint, serverNowMs };
}

/** A lease. Each method returns false, and writes nothing, if the lease has been lost. */
export interface Lease {
  /** Renews the lease and saves the checkpoint. */
  renew(checkpoint: string): Promise<boolean>;
  /** Releases the lease, saves the checkpoint for the next run (an empty one ends the sweep), and records the time. */
  release(checkpoint: string): Promise<boolean>;
}

/**
 * Stands for the lease while its node is down. Several runs may then work at a time: they send completions more than once,
 * which changes nothing. No checkpoint is saved, so that each run begins a new sweep.
 */
export const NO_LEASE: Lease = {
  renew: async () => true,
  release: async () => true,
};

class AcquiredToken implements Lease {
  readonly #valkey: CommandCaller;
  readonly #token: string;

  constructor(valkey: CommandCaller, token: string) {
    this.#valkey = valkey;
    this.#token = token;
  }

  renew(checkpoint: string): Promise<boolean> {
    return this.#save(LEASE_TTL_MS, checkpoint);
  }

  release(checkpoint: string): Promise<boolean> {
    return this.#save(0, checkpoint);
  }

  async #save(ttlMs: number, checkpoint: string): Promise<boolean> {
    const keys = [LEASE_KEY, CHECKPOINT_KEY, LAST_RUN_KEY];
    const args = [this.#token, ttlMs, checkpoint, CHECKPOINT_TTL_SECONDS];
    return (await this.#valkey.call("eval", SAVE, keys.length, ...keys, ...args)) === 1;
  }
}

/** When the last run ended that held the lease, in milliseconds since the epoch; undefined if none is recorded. */
export async function readLastRun(valkey: CommandCaller): Promise<number | undefined> {
  const endedAtMs = Number(fieldText(await valkey.call("get", LAST_RUN_KEY)) || Number.NaN);
  return Number.isSafeInteger(endedAtMs) ? endedAtMs : undefined;
}
