/**
 * Roots are created delayed until the end of the year 9999, and released when all of the graph exists. An incomplete
 * flow therefore runs nothing, however long it stays incomplete. A delay is a part of the one call that creates an
 * execution, so there is no moment at which a root could be claimed.
 */

import type { Plan, PlannedTask } from "#sdk/submission/plan.ts";
import { delayedUntil } from "#sdk/submission/times.ts";
import { command, type Pipelines, type ValkeyCommand } from "#shared/contract/command.ts";
import { promoteDelayed } from "#shared/contract/ownership.ts";
import { fieldText, parseTime } from "#shared/contract/record.ts";
import { ProtocolError, SubmissionError } from "#shared/errors.ts";
import { chunked, doneOrThrow, readEach, sendChunks, valueOrThrow } from "#shared/valkey/batches.ts";
import { serverTimeMs } from "#shared/valkey/server-time.ts";

/** 9999-12-31T23:59:59Z: the largest whole second that ISO 8601 can write with four digits for the year. */
export const HELD_UNTIL_MS = Date.UTC(9999, 11, 31, 23, 59, 59);

const OPEN = "open";
/** The execution is eligible, or another submission released it. */
const RELEASED = new Set([
  "promoted",
  "not_delayed_cleaned",
  "not_runnable_cleaned",
  "not_found_cleaned",
  // Another submission released it, a worker ran it, and it is delayed for its retry.
  "not_yet_due",
]);

/**
 * Gives a held root its own delay. No function of the contract changes a delay. The script writes nothing for a root that
 * another submission has released: a worker may have run it since, and a retry has its own delay.
 */
const SET_DELAY = `
local core = redis.call('HMGET', KEYS[1], 'delay_until', 'eligibility_state')
if core[1] ~= ARGV[1] then return 0 end
if core[2] == 'not_eligible_until_time' then redis.call('ZADD', KEYS[2], ARGV[2], ARGV[3]) end
redis.call('HSET', KEYS[1], 'delay_until', ARGV[2], 'last_mutation_at', ARGV[4])
return 1`;

/** Whether the task has no upstreams. */
export function isRoot({ incoming }: PlannedTask): boolean {
  return incoming.length === 0;
}

/**
 * Makes the held roots eligible, or delayed until their own time. Call it only if all executions, memberships and edges of
 * the plan exist. Of other roots, only those whose delay is over are promoted: after its release a root
 * can be delayed again, for a retry.
 *
 * A root that runs at once gets a delay that is over, and is then promoted: `ff_promote_delayed` takes its time from the caller
 * and writes it to the record. After a crash in between, the delay of the root
 * is over: the reconciler or the next submission promotes it.
 *
 * @throws SubmissionError if roots are held and the flow was cancelled. They stay held.
 */
export async function releaseRoots(valkey: Pipelines, plan: Plan, submittedAtMs: number): Promise<void> {
  const { flow } = plan;
  const delayed = await delayedRoots(valkey, plan);
  if (delayed.length === 0) return;
  const [state, time] = await valkey.pipelined([
    command(flow.partition, "hget", flow.core, "public_flow_state"),
    command(flow.partition, "time"),
  ]);
  const isHeld = ({ untilMs }: DelayedRoot): boolean => untilMs === HELD_UNTIL_MS;
  const held = delayed.filter(isHeld);
  const text = fieldText(valueOrThrow(state));
  if (text !== OPEN && held.length > 0) {
    throw new SubmissionError(
      `flow ${flow.id} is ${text || "in an unknown state"}: ${held.length} of its roots were not released and do not ` +
        "run; submit the workflow with another flow id",
      { retryable: false },
    );
  }
  const nowMs = serverTimeMs(valueOrThrow(time));
  // A root whose delay is over is one that an earlier submission was releasing when it died, or waits for a retry.
  const releasable = text === OPEN ? delayed.filter((root) => isHeld(root) || root.untilMs <= nowMs) : [];
  await sendChunks(chunked(releasable), async (chunk) => {
    const calls = chunk.flatMap(({ root }): ReleaseCall[] => {
      const untilMs = delayedUntil(root.task, submittedAtMs) ?? 0;
      return untilMs > nowMs
        ? [delayRoot(plan, root, untilMs, nowMs)]
        : [delayRoot(plan, root, nowMs, nowMs), promoteRoot(plan, root, nowMs)];
    });
    const results = await valkey.pipelined(calls.map(({ command }) => command));
    for (const [position, { check }] of calls.entries()) check(valueOrThrow(results[position]));
  });
}

interface ReleaseCall {
  readonly command: ValkeyCommand;
  readonly check: (reply: unknown) => void;
}

function promoteRoot({ index }: Plan, { keys, task }: PlannedTask, nowMs: number): ReleaseCall {
  return {
    command: promoteDelayed({ keys, index, lane: task.lane }, nowMs),
    check(reply) {
      const { fields } = doneOrThrow("ff_promote_delayed", reply);
      if (RELEASED.has(fields[0] ?? "")) return;
      throw new ProtocolError(`ff_promote_delayed did not release a root: ${JSON.stringify(fields)}`);
    },
  };
}

function delayRoot(
  { index }: Plan,
  { keys, task }: PlannedTask,
  untilMs: number,
  nowMs: number,
): ReleaseCall {
  const { delayed } = index.lane(task.lane);
  const args = [HELD_UNTIL_MS, untilMs, keys.id, nowMs];
  return {
    command: command(keys.partition, "eval", SET_DELAY, 2, keys.core, delayed, ...args),
    // 0: another submission released it.
    check: () => undefined,
  };
}

interface DelayedRoot {
  readonly root: PlannedTask;
  readonly untilMs: number;
}

async function delayedRoots(valkey: Pipelines, plan: Plan): Promise<DelayedRoot[]> {
  const roots = plan.tasks.filter(isRoot);
  const delays = await readEach(valkey, roots, ({ keys }) =>
    command(keys.partition, "hget", keys.core, "delay_until"),
  );
  return roots.flatMap((root, position) => {
    const untilMs = parseTime(fieldText(delays[position]));
    return untilMs === undefined ? [] : [{ root, untilMs }];
  });
}
