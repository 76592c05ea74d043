/** The commands and results of writes that replicas must confirm. */

import { command, type ValkeyCommand, type ValkeyResult } from "#shared/contract/command.ts";
import type { Partition } from "#shared/contract/ids.ts";
import { replicationKey } from "#shared/contract/keys.ts";
import { messageOf, NotReplicatedError } from "#shared/errors.ts";

/** How many replicas must confirm a write, and how long to wait for them. */
export interface ReplicationWait {
  /** At least 1. */
  readonly replicas: number;
  /** Shorter than the client's command timeout. */
  readonly timeoutMs: number;
}

/** Longer than any wait: the key disappears when no worker waits any more. */
const KEY_TTL_MS = 60_000;

/** A write that makes the next `WAIT` of its connection cover everything that the server has written so far. */
export function replicationWrite(partition: Partition): ValkeyCommand {
  return command(partition, "set", replicationKey(partition), "", "px", KEY_TTL_MS);
}

/** `WAIT`: replies how many replicas have received the earlier writes of its connection, or how many after `timeoutMs`. */
export function waitFor(partition: Partition, { replicas, timeoutMs }: ReplicationWait): ValkeyCommand {
  return command(partition, "wait", replicas, timeoutMs);
}

/**
 * Returns the results of a group of commands without the result of its `replicationWrite`, which is the last one. Unless
 * `waited` shows enough replicas, each successful result becomes a NotReplicatedError.
 */
export function confirmedResults(
  results: readonly ValkeyResult[],
  waited: ValkeyResult | undefined,
  { replicas, timeoutMs }: ReplicationWait,
): ValkeyResult[] {
  const commandResults = results.slice(0, -1);
  const failed = [results.at(-1), waited].find((result) => result?.ok !== true);
  const confirmedBy = waited?.ok === true ? Number(waited.value) : 0;
  if (failed === undefined && confirmedBy >= replicas) return commandResults;
  const reason =
    failed?.ok === false
      ? `the wait for replicas failed: ${messageOf(failed.error)}`
      : `${confirmedBy} of ${replicas} replicas confirmed within ${timeoutMs} ms`;
  const error = new NotReplicatedError(`written, but not confirmed: ${reason}`);
  return commandResults.map((result) => (result.ok ? { ok: false, error } : result));
}
