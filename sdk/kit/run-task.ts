/** Runs one claimed execution: validates its input, runs the task within its time, and checks its result. */

import type { AnyTask, InputSchema, TaskContext } from "#sdk/kit/define-task.ts";
import { runWithMiddleware, type TaskMiddleware } from "#sdk/kit/middleware.ts";
import { messageOf } from "#shared/errors.ts";

/**
 * Throw it to fail an execution without a retry, whatever its retry policy says.
 *
 * @example
 * throw new NonRetryableError(`there is no image ${key}`);
 */
export class NonRetryableError extends Error {
  override readonly name = "NonRetryableError";
}

/**
 * Why a task's signal aborted: its time limit has passed.
 *
 * @example
 * if (signal.reason instanceof TaskTimeoutError) await stopGently();
 */
export class TaskTimeoutError extends Error {
  override readonly name = "TaskTimeoutError";
}

/** How a run ended. */
export type TaskOutcome =
  | { readonly outcome: "success"; readonly result: string }
  /** `isFinal`: another attempt would fail in the same way. */
  | { readonly outcome: "failed"; readonly reason: string; readonly isFinal: boolean };

/**
 * The largest result, in bytes of JSON. Results stay in Valkey's memory until the flow is purged, and are copied to the
 * children that receive them.
 */
export const MAX_RESULT_BYTES = 262_144;

/**
 * Runs a task. Never rejects. `payload` is the execution's payload; `signal` aborts when the lease is lost or the worker
 * stops. The task's own time limit aborts the signal that the task sees, and fails the run even if the task ignores it. The
 * middleware runs within that time.
 */
export async function runTask(
  task: AnyTask,
  payload: string,
  context: TaskContext,
  middleware: readonly TaskMiddleware[] = [],
): Promise<TaskOutcome> {
  const input = await parseInput(task.input, payload);
  if (!input.ok) return { outcome: "failed", reason: input.reason, isFinal: true };
  const timeout = new AbortController();
  const error = new TaskTimeoutError(`the task did not end within ${task.timeoutMs} ms`);
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  aborted.catch(() => undefined);
  const timer = setTimeout(() => {
    timeout.abort(error);
    reject(error);
  }, task.timeoutMs);
  const onAbort = (): void => reject(context.signal.reason);
  context.signal.addEventListener("abort", onAbort, { once: true });
  const signal = AbortSignal.any([context.signal, timeout.signal]);
  try {
    context.signal.throwIfAborted();
    const run = runWithMiddleware(task, input.value, { ...context, signal }, middleware);
    const result = await Promise.race([run, aborted]);
    return resultOf(result);
  } catch (failure) {
    return { outcome: "failed", reason: messageOf(failure), isFinal: failure instanceof NonRetryableError };
  } finally {
    clearTimeout(timer);
    context.signal.removeEventListener("abort", onAbort);
  }
}

type ParsedInput =
  | { readonly ok: true; readonly value: unknown }
  | { readonly ok: false; readonly reason: string };

/** Without a schema, a payload that is not JSON is passed on as text. An empty payload is undefined. */
async function parseInput(schema: InputSchema<unknown> | undefined, payload: string): Promise<ParsedInput> {
  let value: unknown;
  try {
    value = payload === "" ? undefined : JSON.parse(payload);
  } catch (error) {
    if (schema === undefined) return { ok: true, value: payload };
    return { ok: false, reason: `invalid input: the payload is not JSON: ${messageOf(error)}` };
  }
  if (schema === undefined) return { ok: true, value };
  try {
    const validated = await schema["~standard"].validate(value);
    if (validated.issues === undefined) return { ok: true, value: validated.value };
    const issues = validated.issues.map(({ message, path = [] }) => {
      const place = path.map(segmentOf).join(".");
      return place === "" ? message : `${place}: ${message}`;
    });
    return { ok: false, reason: `invalid input: ${issues.join("; ")}` };
  } catch (error) {
    return { ok: false, reason: `invalid input: the schema threw: ${messageOf(error)}` };
  }
}

function segmentOf(segment: unknown): string {
  return typeof segment === "object" && segment !== null && "key" in segment
    ? String(segment.key)
    : String(segment);
}

function resultOf(result: unknown): TaskOutcome {
  let text: string;
  try {
    text = result === undefined ? "" : (JSON.stringify(result) ?? "");
  } catch (error) {
    return { outcome: "failed", reason: `the result is not JSON: ${messageOf(error)}`, isFinal: true };
  }
  const bytes = Buffer.byteLength(text);
  if (bytes <= MAX_RESULT_BYTES) return { outcome: "success", result: text };
  return {
    outcome: "failed",
    reason: `the result has ${bytes} bytes, more than ${MAX_RESULT_BYTES}: store it in S3, and return its bucket and key`,
    isFinal: true,
  };
}
