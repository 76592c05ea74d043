/** How the states of executions are named and shown. */

import { PUBLIC_STATES, type PublicState } from "#shared/contract/record.ts";

/** The state of an execution, or `missing` if it has no record. */
export type State = PublicState | "missing";

/** States are told apart by symbol and word, and not only by color. */
export interface StateStyle {
  readonly symbol: string;
  /** What the state means for a person. */
  readonly label: string;
  readonly color: "green" | "red" | "yellow" | "cyan" | "dim";
}

export const STATE_STYLES: Readonly<Record<State, StateStyle>> = {
  completed: { symbol: "✓", label: "completed", color: "green" },
  failed: { symbol: "✗", label: "failed", color: "red" },
  cancelled: { symbol: "✗", label: "cancelled", color: "red" },
  expired: { symbol: "✗", label: "expired", color: "red" },
  skipped: { symbol: "-", label: "skipped", color: "yellow" },
  active: { symbol: "▶", label: "active", color: "cyan" },
  waiting: { symbol: "…", label: "waiting for a worker", color: "cyan" },
  delayed: { symbol: "…", label: "delayed", color: "cyan" },
  rate_limited: { symbol: "…", label: "rate limited", color: "cyan" },
  suspended: { symbol: "…", label: "suspended", color: "cyan" },
  waiting_children: { symbol: "…", label: "waiting for dependencies", color: "dim" },
  missing: { symbol: "?", label: "without a record", color: "red" },
};

/** States in which an execution has ended without success by itself: they cause skips. */
export const FAILURES: ReadonlySet<State> = new Set(["failed", "cancelled", "expired"]);

/** An unknown or empty state is that of an execution without a record. */
export function stateOf(text: string): State {
  return PUBLIC_STATES.find((state) => state === text) ?? "missing";
}

/** `2 completed, 1 failed`. States without executions are left out. */
export function describeCounts(states: Iterable<State>): string {
  const counts = new Map<State, number>();
  for (const state of states) counts.set(state, (counts.get(state) ?? 0) + 1);
  return [...PUBLIC_STATES, "missing" as const]
    .flatMap((state) => {
      const count = counts.get(state) ?? 0;
      return count === 0 ? [] : [`${count.toLocaleString("en-US")} ${STATE_STYLES[state].label}`];
    })
    .join(", ");
}
