/**
 * Lanes that an operator has paused: no worker of Sluice begins an attempt in them. Running attempts go on, and everything else
 * that happens to an execution does too.
 *
 * The hash maps each paused lane to JSON that says since when, by whom and why.
 */

import { command, type Pipelines, type ValkeyCommand } from "#shared/contract/command.ts";
import type { LaneId } from "#shared/contract/ids.ts";
import { PAUSED_LANES_KEY, PAUSED_LANES_PARTITION } from "#shared/contract/keys.ts";
import { parseJsonObject } from "#shared/contract/message.ts";
import { fieldText } from "#shared/contract/record.ts";
import { ValkeyError } from "#shared/errors.ts";
import { valueOrThrow } from "#shared/valkey/batches.ts";

/** Since when a lane is paused, by whom and why. */
export interface LanePause {
  /** Milliseconds since the epoch; undefined if the field cannot be read. The lane is paused nevertheless. */
  readonly pausedAtMs: number | undefined;
  readonly actor: string;
  readonly reason: string;
}

/** Reads whether a lane is paused: `isPausedReply` decodes the reply. */
export function readPause(lane: LaneId): ValkeyCommand {
  return command(PAUSED_LANES_PARTITION, "hget", PAUSED_LANES_KEY, lane);
}

/** Whether the reply of `readPause` says that the lane is paused. */
export function isPausedReply(reply: unknown): boolean {
  return fieldText(reply) !== "";
}

/** Those of the lanes that are paused. Throws the error of the server or the client. */
export async function readPausedLanes(
  valkey: Pipelines,
  lanes: readonly LaneId[],
): Promise<ReadonlySet<LaneId>> {
  if (lanes.length === 0) return new Set();
  const [pauses] = await valkey.pipelined([
    command(PAUSED_LANES_PARTITION, "hmget", PAUSED_LANES_KEY, ...lanes),
  ]);
  if (pauses?.ok !== true) throw pauses?.error ?? new ValkeyError("the paused lanes were not read");
  const values: readonly unknown[] = Array.isArray(pauses.value) ? pauses.value : [];
  return new Set(lanes.filter((_, at) => isPausedReply(values[at])));
}

/** All paused lanes. Throws a ValkeyError. */
export async function readPauses(valkey: Pipelines): Promise<ReadonlyMap<string, LanePause>> {
  const [fields] = await valkey.pipelined([command(PAUSED_LANES_PARTITION, "hgetall", PAUSED_LANES_KEY)]);
  const value = valueOrThrow(fields);
  const texts = Array.isArray(value) ? value.map(fieldText) : [];
  const lanes = texts.filter((_, at) => at % 2 === 0);
  return new Map(lanes.map((lane, at) => [lane, parsePause(texts[2 * at + 1] ?? "")]));
}

/** Pauses a lane. Replies 1, or 0 without a change if it is paused already. */
export function pauseLane(lane: LaneId, pause: LanePause & { readonly pausedAtMs: number }): ValkeyCommand {
  const { pausedAtMs, actor, reason } = pause;
  const text = JSON.stringify({ paused_at: pausedAtMs, actor, reason });
  return command(PAUSED_LANES_PARTITION, "hsetnx", PAUSED_LANES_KEY, lane, text);
}

/** Resumes a lane. Replies 1, or 0 if it was not paused. */
export function resumeLane(lane: string): ValkeyCommand {
  return command(PAUSED_LANES_PARTITION, "hdel", PAUSED_LANES_KEY, lane);
}

function parsePause(text: string): LanePause {
  const { paused_at: pausedAt, actor, reason } = parseJsonObject(text) ?? {};
  return {
    pausedAtMs: typeof pausedAt === "number" ? pausedAt : undefined,
    actor: typeof actor === "string" ? actor : "",
    reason: typeof reason === "string" ? reason : "",
  };
}
