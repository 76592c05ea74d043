import { ValkeyError } from "#shared/errors.ts";

/** The reply of TIME, `[seconds, microseconds]`, in milliseconds since the epoch. */
export function serverTimeMs(time: unknown): number {
  const [seconds, micros] = Array.isArray(time) ? time.map(Number) : [];
  const nowMs = Math.floor((seconds ?? Number.NaN) * 1_000 + (micros ?? Number.NaN) / 1_000);
  if (Number.isSafeInteger(nowMs)) return nowMs;
  throw new ValkeyError(`the server replied an invalid time: ${JSON.stringify(time)}`);
}
