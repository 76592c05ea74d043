const UNITS = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 } as const;
const DURATION = /^(\d{1,9})(ms|s|m|h)$/;
/** The longest delay of a timer in Node. */
const LONGEST_MS = 2 ** 31 - 1;

/**
 * Returns a duration in milliseconds. `value` is a number of milliseconds, or a text like "500ms", "30s", "2m" or "1h".
 * A malformed one is added to `errors`, under `name`.
 */
export function parseDuration(value: string | number, name: string, errors: string[]): number {
  const [, amount, unit] = typeof value === "string" ? (DURATION.exec(value) ?? []) : [];
  const ms =
    typeof value === "number" ? value : Number(amount) * (UNITS[unit as keyof typeof UNITS] ?? Number.NaN);
  if (Number.isSafeInteger(ms) && ms > 0 && ms <= LONGEST_MS) return ms;
  errors.push(
    `${name} is ${JSON.stringify(value)}: expected a duration like "30s", "2m" or "1h", at most 24 days`,
  );
  return 0;
}
