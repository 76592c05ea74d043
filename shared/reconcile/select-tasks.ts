/** Selects the tasks of the reconcile function. */

import type { ReadyPorts } from "#shared/reconcile/run.ts";
import type { ReconcilerTask } from "#shared/reconcile/task.ts";
import { TASK_NAMES, type TaskName } from "#shared/reconcile/task-names.ts";
import { cancellations } from "#shared/reconcile/tasks/cancellations.ts";
import { delays } from "#shared/reconcile/tasks/delays.ts";
import { dependencies } from "#shared/reconcile/tasks/dependencies.ts";
import { leases } from "#shared/reconcile/tasks/leases.ts";
import { ready } from "#shared/reconcile/tasks/ready.ts";
import { type RetentionOptions, retention } from "#shared/reconcile/tasks/retention.ts";
import { timeouts } from "#shared/reconcile/tasks/timeouts.ts";

/** The tasks that need no configuration, in any order. */
const TASKS: readonly ReconcilerTask[] = [dependencies, leases, timeouts, delays, cancellations];

/** What runs where another vendor's library is loaded: FlowFabric's engine does the rest itself. */
const TASKS_FOR_FOREIGN_LIBRARY: readonly TaskName[] = ["dependencies", "ready"];

/**
 * Returns the tasks of a run, the most time-critical first. `configured` is `RECONCILE_TASKS`; if it is undefined, all
 * tasks run, or only `dependencies` and `ready` if the loaded library is not Sluice's. `ready` runs only with ready queues.
 */
export function selectTasks(
  configured: readonly TaskName[] | undefined,
  isForeignLibrary: boolean,
  retentionOptions: RetentionOptions,
  readyQueues: ReadyPorts | undefined,
): ReconcilerTask[] {
  const tasks = [
    ...TASKS,
    ...(readyQueues === undefined ? [] : [ready(readyQueues)]),
    retention(retentionOptions),
  ];
  const names = configured ?? (isForeignLibrary ? TASKS_FOR_FOREIGN_LIBRARY : TASK_NAMES);
  return TASK_NAMES.filter((name) => names.includes(name)).flatMap((name) =>
    tasks.filter((task) => task.name === name),
  );
}
