/** Middleware around each run of a task, in the style of middy. */

import type { AnyTask, TaskContext } from "#sdk/kit/define-task.ts";

/** One run of a task. Middleware may replace `input`, `result` and `error`. */
export interface TaskRequest {
  readonly kind: string;
  readonly lane: string;
  readonly context: TaskContext;
  /** The validated input. */
  input: unknown;
  /** What the task returned. Undefined before. */
  result: unknown;
  /** What the task, or a middleware, threw. Undefined before. */
  error: unknown;
}

/**
 * Runs around each run of a task. `before` runs in the order of the middleware, `after` and `onError` in the reverse order. If
 * one of them throws, the run has failed, and `onError` runs. After `onError`, the run still fails, with `request.error`.
 *
 * @example
 * const timing: TaskMiddleware = {
 *   before: ({ context }) => console.time(context.executionId),
 *   after: ({ context }) => console.timeEnd(context.executionId),
 * };
 */
export interface TaskMiddleware {
  readonly before?: (request: TaskRequest) => unknown;
  readonly after?: (request: TaskRequest) => unknown;
  readonly onError?: (request: TaskRequest) => unknown;
}

/** Runs a task with its middleware. Rejects with the error of the run. */
export async function runWithMiddleware(
  task: AnyTask,
  input: unknown,
  context: TaskContext,
  middleware: readonly TaskMiddleware[],
): Promise<unknown> {
  const { kind, lane } = task;
  const request: TaskRequest = { kind, lane, context, input, result: undefined, error: undefined };
  const reversed = middleware.toReversed();
  try {
    for (const { before } of middleware) await before?.(request);
    // The input was validated by the task's own schema; without one, its type is unknown.
    request.result = await task.run(request.input as never, context);
    for (const { after } of reversed) await after?.(request);
    return request.result;
  } catch (error) {
    request.error = error;
    for (const { onError } of reversed) await onError?.(request);
    throw request.error;
  }
}
