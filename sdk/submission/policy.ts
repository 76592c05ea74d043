import type { Task } from "#sdk/submission/workflow.ts";

const MS_PER_HOUR = 3_600_000;

/**
 * An execution's policy as stored in its record (contract, section 4). Only the settings that the task has; empty without
 * any.
 */
export function policyJson({ retry, timeoutSeconds, maxReclaims, retentionHours }: Task): string {
  const policy = {
    max_reclaim_count: maxReclaims,
    retry_policy: retry && { max_retries: retry.attempts - 1, backoff: backoffOf(retry.backoff) },
    timeout_policy:
      timeoutSeconds === undefined ? undefined : { attempt_timeout_ms: milliseconds(timeoutSeconds) },
    stream_policy:
      retentionHours === undefined ? undefined : { retention_ttl_ms: retentionHours * MS_PER_HOUR },
  };
  // JSON.stringify omits what is undefined.
  const text = JSON.stringify(policy);
  return text === "{}" ? "" : text;
}

/** Whole milliseconds. */
export function milliseconds(seconds: number): number {
  return Math.round(seconds * 1_000);
}

function backoffOf(backoff: NonNullable<Task["retry"]>["backoff"]): object {
  return backoff.type === "fixed"
    ? { type: backoff.type, delay_ms: backoff.delayMs }
    : {
        type: backoff.type,
        initial_delay_ms: backoff.initialDelayMs,
        max_delay_ms: backoff.maxDelayMs,
        multiplier: backoff.multiplier,
      };
}
