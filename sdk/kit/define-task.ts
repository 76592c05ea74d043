import { parseDuration } from "#sdk/kit/duration.ts";
import { type LaneId, parseLaneId } from "#shared/contract/ids.ts";
import { ConfigurationError } from "#shared/errors.ts";
import type { Log } from "#shared/runtime/telemetry.ts";

/**
 * A validator of inputs, for example a schema of Zod, Valibot or ArkType. This is the part of Standard Schema
 * (standardschema.dev, version 1) that the worker uses.
 */
export interface InputSchema<Input> {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    readonly validate: (value: unknown) => Validated<Input> | Promise<Validated<Input>>;
  };
}

type Validated<Input> =
  | { readonly value: Input; readonly issues?: undefined }
  | {
      readonly issues: readonly {
        readonly message: string;
        readonly path?: readonly unknown[] | undefined;
      }[];
    };

/** What a task can use while it runs. */
export interface TaskContext {
  /** Aborts when the task's time is up, or when the worker loses its lease: the execution then belongs to another worker. */
  readonly signal: AbortSignal;
  /** 1 for the first attempt. */
  readonly attempt: number;
  /**
   * The same text for every attempt of this execution, and another one after a replay. Pass it to services that accept an
   * idempotency key: an attempt may be interrupted after its effect and before its result is stored.
   */
  readonly idempotencyKey: string;
  /** Records how far the attempt has come: 0 to 100, and a text for people. Rejects if the worker has lost the lease. */
  readonly progress: (percent: number, message?: string) => Promise<void>;
  /** Reads the result of another task of the same flow: its parsed JSON, or undefined if it stored none. */
  readonly upstream: (taskId: string) => Promise<unknown>;
  /** Adds the execution's ids to every line. */
  readonly logger: Log;
  readonly executionId: string;
  /** Empty if the execution belongs to no flow. */
  readonly flowId: string;
  /**
   * The W3C trace context that came with the ready message: that of the submission, or of the completion that released the task.
   * Undefined if there was none, and for executions that were found by polling. Pass it to a tracing library as the parent.
   */
  readonly traceparent: string | undefined;
}

/** When a failed run is tried again. */
export interface TaskRetry {
  /** Attempts in all, at least 1. */
  readonly attempts: number;
  /**
   * `exponential`: 1 s, 2 s, 4 s, … up to 60 s. `fixed`: 1 s. Or a fixed delay, for example "30s".
   * Default: `exponential`.
   */
  readonly backoff?: "exponential" | "fixed" | string;
}

/** The argument of `defineTask`. */
export interface TaskDefinition<Input, Output> {
  /** The `kind` of the workflow's tasks that this task runs. */
  readonly kind: string;
  /** The lane of the executions. Default: "default". */
  readonly lane?: string;
  /** How long one run may take: milliseconds, or a text like "30s", "2m", "1h". Default: "5m". */
  readonly timeout?: string | number;
  /** For executions whose workflow says nothing about retries. Default: no retry. */
  readonly retry?: TaskRetry;
  /** Validates the payload, which is JSON. A payload that does not validate fails without a retry. */
  readonly input?: InputSchema<Input>;
  /** Runs the task. Its result is stored as JSON. If it throws, the run has failed, and is retried as `retry` says. */
  readonly run: (input: Input, context: TaskContext) => Output | Promise<Output>;
}

/** A task that a worker can run. */
export interface Task<Input = unknown, Output = unknown> {
  readonly kind: string;
  readonly lane: LaneId;
  readonly timeoutMs: number;
  /** The `retry_policy` of executions without one, as JSON for `ff_fail_execution`. Empty: no retry. */
  readonly retryPolicyJson: string;
  readonly input: InputSchema<Input> | undefined;
  readonly run: (input: Input, context: TaskContext) => Output | Promise<Output>;
}

/** A task of any input and output. */
export type AnyTask = Omit<Task<never>, "input"> & { readonly input: InputSchema<unknown> | undefined };

const DEFAULT_LANE = "default";
const DEFAULT_TIMEOUT = "5m";
const FIRST_DELAY_MS = 1_000;
const LONGEST_DELAY_MS = 60_000;

/**
 * Defines a task. Pass it to `lambdaWorker` or `containerWorker`.
 *
 * @throws ConfigurationError if a field is malformed. It lists every problem.
 *
 * @example
 * export const resize = defineTask({
 *   kind: "resize",
 *   lane: "images",
 *   timeout: "2m",
 *   retry: { attempts: 3, backoff: "exponential" },
 *   input: z.object({ key: z.string() }),
 *   run: async ({ key }, { signal }) => ({ thumbnail: await makeThumbnail(key, signal) }),
 * });
 */
export function defineTask<Input = unknown, Output = unknown>(
  definition: TaskDefinition<Input, Output>,
): Task<Input, Output> {
  const { kind, lane = DEFAULT_LANE, timeout = DEFAULT_TIMEOUT, retry, input, run } = definition;
  const errors: string[] = [];
  if (kind === "") errors.push("kind is empty: expected the kind of the workflow's tasks");
  const parsedLane = parseLaneId(lane);
  if (!parsedLane.ok) errors.push(`lane: ${parsedLane.error.message}`);
  const timeoutMs = parseDuration(timeout, "timeout", errors);
  const retryPolicyJson = retry === undefined ? "" : policyOf(retry, errors);
  if (errors.length > 0 || !parsedLane.ok) {
    throw new ConfigurationError(errors.map((error) => `task "${kind}": ${error}`));
  }
  return { kind, lane: parsedLane.value, timeoutMs, retryPolicyJson, input, run };
}

function policyOf({ attempts, backoff = "exponential" }: TaskRetry, errors: string[]): string {
  if (!Number.isSafeInteger(attempts) || attempts < 1) {
    errors.push(`retry.attempts is ${attempts}: expected an integer of at least 1`);
  }
  const max_retries = attempts - 1;
  if (backoff === "exponential") {
    return JSON.stringify({
      max_retries,
      backoff: {
        type: "exponential",
        initial_delay_ms: FIRST_DELAY_MS,
        max_delay_ms: LONGEST_DELAY_MS,
        multiplier: 2,
      },
    });
  }
  const delay_ms = backoff === "fixed" ? FIRST_DELAY_MS : parseDuration(backoff, "retry.backoff", errors);
  return JSON.stringify({ max_retries, backoff: { type: "fixed", delay_ms } });
}
