/** How states look: each has a word, a color and an icon of its own, so that color alone never tells them apart. */

import { STATE_STYLES, type State, stateOf } from "#operate/graph/states.ts";

export interface Look {
  readonly label: string;
  /** The path of a drawing of 16 by 16 that is stroked: for SVG, and for a canvas. */
  readonly icon: string;
  /** The name of a custom property with the color. */
  readonly color: string;
}

const ICONS: Readonly<Record<State, string>> = {
  completed: "M3.5 8.5 6.5 11.5 12.5 4.8",
  failed: "M4.5 4.5 11.5 11.5M11.5 4.5 4.5 11.5",
  cancelled: "M8 2.6A5.4 5.4 0 1 0 8 13.4A5.4 5.4 0 1 0 8 2.6M4.3 11.7 11.7 4.3",
  expired: "M4.5 2.8h7M4.5 13.2h7M5.2 2.8C5.2 6 10.8 10 10.8 13.2M10.8 2.8C10.8 6 5.2 10 5.2 13.2",
  skipped: "M3.2 4.2 7 8 3.2 11.8M8.8 4.2 12.6 8 8.8 11.8",
  active: "M5.2 3.6V12.4L12.2 8Z",
  waiting: "M8 3.4A4.6 4.6 0 1 0 8 12.6A4.6 4.6 0 1 0 8 3.4",
  delayed: "M8 2.6A5.4 5.4 0 1 0 8 13.4A5.4 5.4 0 1 0 8 2.6M8 5.2V8.2L10 9.6",
  rate_limited: "M3 5.5h10M3 10.5h10M6 3.5v4M10 8.5v4",
  suspended: "M5.6 4v8M10.4 4v8",
  waiting_children: "M3.6 8h.02M8 8h.02M12.4 8h.02",
  missing: "M5.6 6A2.4 2.4 0 1 1 8.6 8.3Q8 8.6 8 9.6M8 12.2v.02",
};

const LABELS: Partial<Readonly<Record<State, string>>> = {
  waiting: "ready",
  waiting_children: "blocked",
  active: "running",
  missing: "no record",
};

export const LOOKS = Object.fromEntries(
  Object.entries(STATE_STYLES).map(([state, { label }]) => [
    state,
    {
      label: LABELS[state as State] ?? label,
      icon: ICONS[state as State],
      color: `--state-${state.replace("_", "-")}`,
    },
  ]),
) as Readonly<Record<State, Look>>;

/** The look of a `public_state`. */
export function lookOf(state: string): Look {
  return LOOKS[stateOf(state)];
}

/** What a state means, for those who see it for the first time. */
export const MEANINGS: Readonly<Record<State, string>> = {
  completed: "It has ended with success.",
  failed: "It has ended with a failure.",
  cancelled: "It was cancelled.",
  expired: "Its deadline passed before it ended.",
  skipped: "It cannot run any more, because something that it depends on did not succeed.",
  active: "A worker runs it.",
  waiting: "It can run: a worker has to take it.",
  delayed: "It waits for a time, for example for its next attempt.",
  rate_limited: "It waits for a budget, a quota or an operator.",
  suspended: "It waits for a signal.",
  waiting_children: "It waits for executions that it depends on.",
  missing: "It has no record any more.",
};

/** The order of legends: what needs attention comes first. */
export const STATE_ORDER: readonly State[] = [
  "failed",
  "expired",
  "cancelled",
  "skipped",
  "active",
  "waiting",
  "delayed",
  "rate_limited",
  "suspended",
  "waiting_children",
  "completed",
  "missing",
];
