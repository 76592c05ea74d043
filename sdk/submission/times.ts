/**
 * Delays and deadlines as points in time. Those that a task gives relative to the submission count from the moment when the
 * flow was created, which its record has in the server's time. So every submission of a flow, by any client, gets the same
 * times, whatever the client's clock says.
 */

import type { PlannedTask } from "#sdk/submission/plan.ts";
import { milliseconds } from "#sdk/submission/policy.ts";
import type { Task } from "#sdk/submission/workflow.ts";

/** When the task may run, in milliseconds since the epoch. Undefined without a delay. */
export function delayedUntil({ delaySeconds = 0 }: Task, submittedAtMs: number): number | undefined {
  return delaySeconds === 0 ? undefined : submittedAtMs + milliseconds(delaySeconds);
}

/** When the task expires, in milliseconds since the epoch. Undefined without a deadline. */
export function deadlineOf({ deadline }: Task, submittedAtMs: number): number | undefined {
  if (typeof deadline === "string") return Date.parse(deadline);
  return deadline === undefined ? undefined : submittedAtMs + milliseconds(deadline);
}

/** Absolute deadlines that cannot be met, one line each: they have passed, or end before the task's delay. */
export function missedDeadlines(tasks: readonly PlannedTask[], nowMs: number): string[] {
  return tasks.flatMap(({ task }) => {
    const deadlineMs = deadlineOf(task, nowMs);
    if (deadlineMs === undefined) return [];
    const what = `the deadline ${String(task.deadline)} of task ${JSON.stringify(task.id)}`;
    if (deadlineMs <= nowMs) return [`${what} has passed: correct or remove it`];
    if (deadlineMs > (delayedUntil(task, nowMs) ?? 0)) return [];
    return [`${what} is before the end of its delay of ${task.delaySeconds} s: correct one of them`];
  });
}
