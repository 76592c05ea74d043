import type { AnyTask } from "#sdk/kit/define-task.ts";
import type { LaneId } from "#shared/contract/ids.ts";
import { ConfigurationError } from "#shared/errors.ts";

/** The tasks of a worker, by lane and kind. */
export class TaskRegistry {
  readonly #tasks = new Map<string, AnyTask>();

  /** @throws ConfigurationError if there is no task, or if two tasks of a lane have the same kind. */
  constructor(tasks: readonly AnyTask[]) {
    if (tasks.length === 0)
      throw new ConfigurationError(["the worker has no tasks: pass at least one to `tasks`"]);
    for (const task of tasks) {
      const key = keyOf(task.kind, task.lane);
      if (this.#tasks.has(key)) {
        throw new ConfigurationError([
          `two tasks of the lane "${task.lane}" have the kind "${task.kind}": a worker runs one task of each kind`,
        ]);
      }
      this.#tasks.set(key, task);
    }
  }

  /** The task of an execution; undefined if this worker has none for its kind and lane. */
  find(kind: string, lane: LaneId): AnyTask | undefined {
    return this.#tasks.get(keyOf(kind, lane));
  }

  get lanes(): LaneId[] {
    return [...new Set([...this.#tasks.values()].map(({ lane }) => lane))];
  }

  get all(): AnyTask[] {
    return [...this.#tasks.values()];
  }
}

/** Lanes contain no line breaks. */
function keyOf(kind: string, lane: LaneId): string {
  return `${lane}\n${kind}`;
}
