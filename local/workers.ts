import type { Stack } from "#local/stack.ts";
import type { AnyTask } from "#sdk/kit/define-task.ts";
import { LanePool } from "#sdk/kit/lane-pool.ts";
import { TaskRegistry } from "#sdk/kit/registry.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { messageOf } from "#shared/errors.ts";
import type { LogFields } from "#shared/runtime/telemetry.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";

export interface WorkersOptions {
  readonly tasks: readonly AnyTask[];
  /** Where the children of an ended execution are updated: in this process, or by the dispatch function. */
  readonly dispatch: "inline" | "queue";
  readonly onError: (error: string) => void;
}

/** Executions of a lane that run at once. */
const CONCURRENCY = 25;
/** Longer than any test waits. Tasks end by their own time limits. */
const DRAIN_MS = 60_000;

/** The container worker of the local stack, with the stack's connections. */
export interface Workers extends AsyncDisposable {
  /** Whether an execution runs or waits in this process. */
  readonly isBusy: boolean;
}

/** Starts a worker for all lanes of the tasks. Disposing of it waits until running tasks have ended. */
export function startWorkers(stack: Stack, router: PartitionRouter, options: WorkersOptions): Workers {
  const { tasks, dispatch, onError } = options;
  const registry = new TaskRegistry(tasks);
  const write = (level: string, message: string, fields: LogFields = {}): void =>
    stack.writeLog(`${JSON.stringify({ level, message, ...fields, service: "worker" })}\n`);
  const pool = new LanePool(
    {
      valkey: stack.valkey,
      router,
      sqs: stack.client,
      completions: stack.completions,
      readyQueueUrls: stack.queue.readyQueueUrls,
      receive: { longPollSeconds: stack.queue.longPollSeconds },
      dispatch,
      telemetry: {
        count: () => undefined,
        info: (message, fields) => write("INFO", message, fields),
        warn: (message, fields) => write("WARN", message, fields),
        error: (message, fields) => {
          write("ERROR", message, fields);
          onError(`${message}: ${JSON.stringify(fields)}`);
        },
      },
      metrics: { ran: () => stack.activity.notify(), unknownKind: () => undefined },
      ensureLibrary: async () => {
        await ensureLibrary(stack.valkey, "auto");
      },
    },
    registry,
    new Map(registry.lanes.map((lane) => [lane, CONCURRENCY])),
  );
  const stopping = new AbortController();
  const running = pool
    .run(stopping.signal, DRAIN_MS)
    .catch((error: unknown) => onError(`the worker failed: ${messageOf(error)}`));
  return {
    get isBusy() {
      return !pool.isIdle;
    },
    async [Symbol.asyncDispose]() {
      stopping.abort();
      await running;
      pool[Symbol.dispose]();
    },
  };
}
