/** Parsers of option values for commander. */

import { InvalidArgumentError } from "commander";

/** Parses a whole number. */
export function integer(text: string): number {
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw new InvalidArgumentError("Expected a whole number.");
}

const UNIT_SECONDS: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3_600, d: 86_400 };

/** Parses an age such as `90s`, `15m`, `2h` or `3d`. Returns seconds. */
export function age(text: string): number {
  const [, count, unit = ""] = /^(\d{1,9})([smhd]?)$/.exec(text) ?? [];
  if (count === undefined) {
    throw new InvalidArgumentError("Expected a whole number and a unit (s, m, h or d), e.g. 15m.");
  }
  return Number(count) * (UNIT_SECONDS[unit] ?? 1);
}
