import { ValkeyError } from "#shared/errors.ts";

/** The reply of TIME, `[seconds, microseconds]`, in milliseconds since the epoch. */
export function serverTimeMs(time: unknown): number {
  const [seconds, micros] = Array.isArray(time) ? time.map(Number) : [];
  const nowMs = Math.floor((seconds ?? Number.NaN) * 1_000 + (micros ?? Number.NaN) / 1_000);
  if (Number.isSafeInteger(nowMs)) return nowMs;
  throw new ValkeyError(`the server replied an invalid time: ${JSON.stringify(time)}`);
}

/** The members with a score of at most `limit`, from a reply of ZRANGE WITHSCORES. */
export function idsUpTo(limit: number, membersAndScores: unknown): unknown[] {
  const flat: readonly unknown[] = Array.isArray(membersAndScores) ? membersAndScores : [];
  return flat.filter((_, position) => position % 2 === 0 && Number(flat[position + 1]) <= limit);
}
