import { setTimeout as pause } from "node:timers/promises";
import type { Outcome } from "#functions/provision/answer.ts";
import { messageOf, SluiceError } from "#shared/errors.ts";

/** A replication group that was created a moment ago may take a while to answer, and to know its users. */
const PAUSE_MS = 2_000;

/**
 * How an attempt ends by the deadline, in milliseconds since the epoch. One that fails is repeated where that can help;
 * where the time is up first, the reason is the last attempt's. Never rejects.
 */
export async function outcomeBy(
  deadlineMs: number,
  attempt: () => Promise<Readonly<Record<string, string>>>,
): Promise<Outcome> {
  const { promise: late, resolve } = Promise.withResolvers<Outcome>();
  let lastReason = "nothing was heard of Valkey";
  const timer = setTimeout(() => resolve(failed(`the time was up: ${lastReason}`)), deadlineMs - Date.now());

  async function attempts(): Promise<Outcome> {
    for (;;) {
      try {
        return { status: "SUCCESS", data: await attempt() };
      } catch (error) {
        lastReason = messageOf(error);
        const canHelp = error instanceof SluiceError && error.retryable;
        if (!canHelp || Date.now() + PAUSE_MS >= deadlineMs) return failed(lastReason);
      }
      await pause(PAUSE_MS);
    }
  }

  try {
    return await Promise.race([attempts(), late]);
  } finally {
    clearTimeout(timer);
  }
}

function failed(reason: string): Outcome {
  return { status: "FAILED", reason };
}
