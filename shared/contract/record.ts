/** Values in an execution record (contract, section 4). */

const TERMINAL_OUTCOMES = ["success", "failed", "cancelled", "expired", "skipped"] as const;
/** The outcome of a terminal execution. Before that, the field holds `none` or the empty string, or is missing. */
export type TerminalOutcome = (typeof TERMINAL_OUTCOMES)[number];

/** Whether the contract defines this outcome for a terminal execution. */
export function isTerminalOutcome(text: string): text is TerminalOutcome {
  return (TERMINAL_OUTCOMES as readonly string[]).includes(text);
}

/** The values of a record's `public_state`. */
export const PUBLIC_STATES = [
  "completed",
  "failed",
  "cancelled",
  "expired",
  "skipped",
  "active",
  "suspended",
  "waiting",
  "delayed",
  "rate_limited",
  "waiting_children",
] as const;
export type PublicState = (typeof PUBLIC_STATES)[number];

/** Returns a record's field as text. Null and a missing field read as the empty string. */
export function fieldText(value: unknown): string {
  return typeof value === "string" ? value : "";
}

const MILLISECONDS = /^\d{1,15}$/;

/** Parses a record's time, in milliseconds since the epoch. Returns undefined if it is empty or malformed. */
export function parseTime(text: string): number | undefined {
  return MILLISECONDS.test(text) ? Number(text) : undefined;
}
