/** All tasks, the most time-critical first. */
export const TASK_NAMES = [
  "leases",
  "timeouts",
  "delays",
  "cancellations",
  "dependencies",
  "ready",
  "retention",
] as const;
export type TaskName = (typeof TASK_NAMES)[number];

export function isTaskName(text: string): text is TaskName {
  return (TASK_NAMES as readonly string[]).includes(text);
}
