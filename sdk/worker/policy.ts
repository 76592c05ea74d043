import { isObject, parseJsonObject } from "#shared/contract/message.ts";

/** What a worker needs of an execution's policy. */
export interface WorkerPolicy {
  /** The retry policy as JSON, for `ff_fail_execution`. Empty: a failure is final. */
  readonly retryPolicyJson: string;
  /** How long an attempt may run, in milliseconds. No limit unless given. */
  readonly attemptTimeoutMs?: number;
}

/** Reads a record's policy. Other submitters may store one of any shape: what does not fit the contract is ignored. */
export function parseWorkerPolicy(text: string): WorkerPolicy {
  const policy = parseJsonObject(text);
  const retry = policy?.retry_policy;
  const timeouts = policy?.timeout_policy;
  const timeoutMs = isObject(timeouts) ? timeouts.attempt_timeout_ms : undefined;
  return {
    retryPolicyJson: isObject(retry) ? JSON.stringify(retry) : "",
    ...(isDuration(timeoutMs) ? { attemptTimeoutMs: timeoutMs } : {}),
  };
}

function isDuration(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value > 0;
}
