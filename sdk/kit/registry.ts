import type { AnyTask } from "#sdk/kit/define-task.ts";
import type { LaneId } from "#shared/contract/ids.ts";
import { ConfigurationError } from "#shared/errors.ts";

/** The tasks of a worker, by kind. */
export class TaskRegistry {
  readonly #tasks = new Map<string, AnyTask>();

  /** @throws ConfigurationError if there is no task, or if two tasks have the same kind. */
  constructor(tasks: readonly AnyTask[]) {
    if (tasks.length === 0)
      throw new ConfigurationError(["the worker has no tasks: pass at least one to `tasks`"]);
    for (const task of tasks) {
      if (this.#tasks.has(task.kind)) {
        throw new ConfigurationError([
          `two tasks have the kind "${task.kind}": a worker runs one task of each kind`,
        ]);
      }
      this.#tasks.set(task.kind, task);
    }
  }

  /** The task of an execution; undefined if this worker has none for its kind and lane. */
  find(kind: string, lane: LaneId): AnyTask | undefined {
    const task = this.#tasks.get(kind);
    return task?.lane === lane ? task : undefined;
  }

  get lanes(): LaneId[] {
    return [...new Set([...this.#tasks.values()].map(({ lane }) => lane))];
  }

  get all(): AnyTask[] {
    return [...this.#tasks.values()];
  }
}
