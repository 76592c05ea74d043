/** The vocabulary of the execution record (contract, section 4). */

const TERMINAL_OUTCOMES = ["success", "failed", "cancelled", "expired", "skipped"] as const;
/** How an execution ended. A record that has not ended holds `none`, the empty string, or no field. */
export type TerminalOutcome = (typeof TERMINAL_OUTCOMES)[number];

export function isTerminalOutcome(text: string): text is TerminalOutcome {
  return (TERMINAL_OUTCOMES as readonly string[]).includes(text);
}

/** A record's field as Valkey gives it: null, a missing field and the empty string mean the same. */
export function fieldText(value: unknown): string {
  return typeof value === "string" ? value : "";
}

const MILLISECONDS = /^\d{1,15}$/;

/** A time as a record holds it, in milliseconds since the epoch; undefined where there is none. */
export function parseTime(text: string): number | undefined {
  return MILLISECONDS.test(text) ? Number(text) : undefined;
}
