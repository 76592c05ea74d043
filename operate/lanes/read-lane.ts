/** Counts the executions of one lane in all partitions. */

import { type FirstEligible, firstOf, readOldest, type WaitingExecution } from "#operate/lanes/oldest.ts";
import { readAll } from "#operate/lanes/read-all.ts";
import type { OperateContext } from "#operate/operation.ts";
import { command, type ValkeyCommand } from "#shared/contract/command.ts";
import { type LaneId, type Partition, parseExecutionId } from "#shared/contract/ids.ts";
import { fieldText } from "#shared/contract/record.ts";

export interface LaneCounts {
  readonly eligible: number;
  readonly oldest: WaitingExecution | undefined;
  readonly delayed: number;
  /** Of the delayed ones, those whose time has come. */
  readonly delayedDue: number;
  /** When the next delay ends, in milliseconds since the epoch. */
  readonly nextDueMs: number | undefined;
  readonly blocked: number;
  readonly blockedOtherwise: number;
  readonly suspended: number;
  readonly active: number;
}

/** The commands of one partition, in the order in which `readLane` reads their replies. */
function readsOf(
  context: OperateContext,
  lane: LaneId,
  partition: Partition,
  nowMs: number,
): ValkeyCommand[] {
  const keys = context.router.indexKeys(partition).lane(lane);
  const count = (key: string): ValkeyCommand => command(partition, "zcard", key);
  return [
    command(partition, "zrange", keys.eligible, 0, 0, "withscores"),
    command(partition, "zrange", keys.delayed, 0, 0, "withscores"),
    command(partition, "zcount", keys.delayed, "-inf", nowMs),
    count(keys.eligible),
    count(keys.delayed),
    count(keys.blockedDependencies),
    count(keys.blockedBudget),
    count(keys.blockedQuota),
    count(keys.blockedRoute),
    count(keys.blockedOperator),
    count(keys.suspended),
    count(keys.active),
  ];
}

/** Reads the indexes of a lane. Throws a ValkeyError. */
export async function readLane(context: OperateContext, lane: LaneId, nowMs: number): Promise<LaneCounts> {
  const { partitions } = context.router;
  const commands = partitions.map((partition) => readsOf(context, lane, partition, nowMs));
  const replies = await readAll(context.valkey, commands.flat());
  const first: FirstEligible[] = [];
  let nextDueMs: number | undefined;
  const sums = new Array<number>(10).fill(0);
  for (const [at, partition] of partitions.entries()) {
    const width = commands[at]?.length ?? 0;
    const [eligible, delayed, ...counts] = replies.slice(at * width, (at + 1) * width);
    const key = context.router.indexKeys(partition).lane(lane).eligible;
    const next = firstOf({ partition, key }, eligible);
    if (next !== undefined) first.push(next);
    const due = firstOf({ partition, key }, delayed);
    if (due !== undefined) nextDueMs = Math.min(nextDueMs ?? due.score, due.score);
    for (const [position, count] of counts.entries()) sums[position] = (sums[position] ?? 0) + Number(count);
  }
  const [
    delayedDue = 0,
    eligible = 0,
    delayed = 0,
    blocked = 0,
    budget = 0,
    quota = 0,
    route = 0,
    operator = 0,
    suspended = 0,
    active = 0,
  ] = sums;
  return {
    eligible,
    oldest: await readOldest(context, first, nowMs),
    delayed,
    delayedDue,
    nextDueMs,
    blocked,
    blockedOtherwise: budget + quota + route + operator,
    suspended,
    active,
  };
}

/** Leases of a partition that are looked at: the longest expired come first. */
const MAX_EXPIRED = 1_000;

/** Leases of a lane that ran out. */
export interface ExpiredLeases {
  readonly count: number;
  /** When the first of them ran out, in milliseconds since the epoch. */
  readonly sinceMs: number;
}

/** Finds leases that ran out and that no worker has reclaimed yet, by lane. Throws a ValkeyError. */
export async function readExpiredLeases(
  { valkey, router }: OperateContext,
  nowMs: number,
): Promise<ReadonlyMap<string, ExpiredLeases>> {
  const replies = await readAll(
    valkey,
    router.partitions.map((partition) => {
      const { leaseExpiry } = router.indexKeys(partition);
      const args = [leaseExpiry, "-inf", nowMs, "WITHSCORES", "LIMIT", 0, MAX_EXPIRED];
      return command(partition, "zrangebyscore", ...args);
    }),
  );
  const expired = replies.flatMap((reply) => {
    const texts = Array.isArray(reply) ? reply.map(fieldText) : [];
    return texts.flatMap((member, at) => {
      const id = at % 2 === 0 ? parseExecutionId(member) : undefined;
      return id?.ok ? [{ id: id.value, sinceMs: Number(texts[at + 1]) }] : [];
    });
  });
  const lanes = await readAll(
    valkey,
    expired.map(({ id }) => {
      const { partition, core } = router.execKeys(id);
      return command(partition, "hget", core, "lane_id");
    }),
  );
  const found = new Map<string, ExpiredLeases>();
  for (const [at, { sinceMs }] of expired.entries()) {
    const lane = fieldText(lanes[at]);
    const own = found.get(lane) ?? { count: 0, sinceMs };
    found.set(lane, { count: own.count + 1, sinceMs: Math.min(own.sinceMs, sinceMs) });
  }
  return found;
}
