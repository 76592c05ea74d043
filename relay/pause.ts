import { setTimeout as sleep } from "node:timers/promises";

/** Waits for so many milliseconds, or until the signal aborts. */
export async function pause(ms: number, signal?: AbortSignal): Promise<void> {
  await sleep(ms, undefined, signal && { signal }).catch(() => undefined);
}

/** The pause after so many failures in a row: twice as long each time, up to the longest, and never twice the same. */
export function growingPause(failures: number, firstMs: number, longestMs: number): number {
  return Math.min(longestMs, firstMs * 2 ** (failures - 1)) * (0.5 + Math.random() / 2);
}
