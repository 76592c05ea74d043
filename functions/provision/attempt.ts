import { setTimeout as pause } from "node:timers/promises";
import type { Outcome } from "#functions/provision/respond.ts";
import { messageOf, SluiceError } from "#shared/errors.ts";

/** A new replication group may need a while until it responds and knows its users. */
const RETRY_DELAY_MS = 2_000;

/**
 * Runs attempts until one succeeds, one fails with an error that is not retryable, or the deadline (milliseconds since the
 * epoch) is reached. The reason of a failure is the error of the last attempt. Never rejects.
 */
export async function attemptUntil(
  deadlineMs: number,
  attempt: () => Promise<Readonly<Record<string, string>>>,
): Promise<Outcome> {
  const { promise: timeout, resolve } = Promise.withResolvers<Outcome>();
  let lastReason = "Valkey did not respond";
  const timer = setTimeout(() => resolve(failed(`timed out: ${lastReason}`)), deadlineMs - Date.now());

  async function attempts(): Promise<Outcome> {
    for (;;) {
      try {
        return { status: "SUCCESS", data: await attempt() };
      } catch (error) {
        lastReason = messageOf(error);
        const isRetryable = error instanceof SluiceError && error.retryable;
        if (!isRetryable || Date.now() + RETRY_DELAY_MS >= deadlineMs) return failed(lastReason);
      }
      await pause(RETRY_DELAY_MS);
    }
  }

  try {
    return await Promise.race([attempts(), timeout]);
  } finally {
    clearTimeout(timer);
  }
}

function failed(reason: string): Outcome {
  return { status: "FAILED", reason };
}
