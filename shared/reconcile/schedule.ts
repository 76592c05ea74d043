/** Lets the tasks of a run take turns, so that a slow one starves no other, and repeats the time-critical ones. */

import type { SweepRun } from "#shared/reconcile/run.ts";
import type { TaskSweep } from "#shared/reconcile/task-sweep.ts";

/** How long a task works before the next one has its turn, in milliseconds. One step may take longer. */
const SLICE_MS = 1_000;
/** The longest pause without a renewal of the lease. */
const MAX_PAUSE_MS = 2_000;
/** A repetition begins only if the time is longer than this many of the longest ones so far. */
const RESERVED_REPETITIONS = 2;
/** The shortest time that is left after the start of a repetition. */
const MIN_RESERVED_MS = 500;
/** The interval of the schedule that starts the runs. */
const SCHEDULE_INTERVAL_MS = 60_000;

interface RepetitionRules {
  readonly intervalMs: number;
  readonly run: SweepRun;
}

interface Repetition {
  readonly sweep: TaskSweep;
  startedAtMs: number;
  /** Time spent in the current sweep, and in the longest one so far. */
  spentMs: number;
  longestMs: number;
}

/**
 * Runs slices of all sweeps in turn until each has ended. Repeats time-critical tasks every `intervalMs` until the deadline;
 * if it is infinite, never. Throws SweepStopped if the lease is lost; rejects if Valkey is unavailable.
 */
export async function runInTurns(
  run: SweepRun,
  sweeps: readonly TaskSweep[],
  intervalMs: number,
): Promise<void> {
  const { now, sleep } = run.ports;
  const rules = { intervalMs, run };
  const repeated = sweeps.map(
    (sweep): Repetition => ({ sweep, startedAtMs: run.startedAtMs, spentMs: 0, longestMs: 0 }),
  );
  const turns = repeated.slice();
  for (;;) {
    for (const one of repeated) {
      if (pauseBefore(one, rules) > 0) continue;
      one.startedAtMs = now();
      one.spentMs = 0;
      one.sweep.restart();
      // It is time-critical: it goes before the tasks that wait for their turn.
      turns.unshift(one);
    }
    const turn = turns.shift();
    if (turn !== undefined) {
      const beganMs = now();
      await turn.sweep.runSlice(SLICE_MS);
      turn.spentMs += now() - beganMs;
      turn.longestMs = Math.max(turn.longestMs, turn.spentMs);
      if (!turn.sweep.hasEnded) turns.push(turn);
      continue;
    }
    const pauseMs = Math.min(...repeated.map((one) => pauseBefore(one, rules)));
    if (pauseMs === Number.POSITIVE_INFINITY) return;
    await sleep(Math.min(pauseMs, MAX_PAUSE_MS));
    await run.keepLease();
  }
}

/** Milliseconds until a task is repeated; infinite if it is not repeated in this run. */
function pauseBefore(
  { sweep, startedAtMs, longestMs }: Repetition,
  { intervalMs, run }: RepetitionRules,
): number {
  const { now, deadlineMs } = run.ports;
  if (!sweep.task.isTimeCritical || !sweep.hasEnded || sweep.stopReason !== undefined) {
    return Number.POSITIVE_INFINITY;
  }
  const latestMs = deadlineMs - Math.max(MIN_RESERVED_MS, RESERVED_REPETITIONS * longestMs);
  const isTooLongUntilNextRun = run.startedAtMs + SCHEDULE_INTERVAL_MS - startedAtMs > intervalMs;
  // The last repetition is as late as possible: the next run may begin only after more than an interval.
  const regularMs = startedAtMs + intervalMs;
  const startMs = regularMs > latestMs && isTooLongUntilNextRun ? latestMs : regularMs;
  if (startMs <= startedAtMs || startMs > latestMs || now() > latestMs) return Number.POSITIVE_INFINITY;
  return Math.max(0, startMs - now());
}
