/** What a replay has done so far, and what its next slice needs to go on. */

/** A message that the pass leaves in the queue, hidden until its end: its id and the handle of its last delivery. */
export type Held = readonly [id: string, handle: string];

/** What a receive-based pass hands to its next slice. Times in milliseconds since the epoch. */
export interface ReceiveContinuation {
  readonly pass: "receive";
  readonly started_at: number;
  readonly next_send_at: number;
  readonly totals: Totals;
  readonly held: readonly Held[];
}

/** What passes from one slice to the next. Its holder gives it back as it came. */
export type Continuation = ReceiveContinuation | { readonly pass: "move_task"; readonly task_handle: string };

/** Messages. `seen` is the sum of `matching`, `kept` and `over_limit`; replaying, `matching` that of the next two. */
export interface Totals {
  readonly seen: number;
  /** Selected by the filter, and within the limit. A dry run only counts them. */
  readonly matching: number;
  readonly replayed: number;
  /** Could not be sent: they stay. */
  readonly failed: number;
  /** Not selected by the filter, or dead-lettered after the pass began: they stay. */
  readonly kept: number;
  /** Selected, but replayed too often already: they stay. */
  readonly over_limit: number;
}

/** Why a slice ended; but for `slice`, the pass ended with it. */
export const ENDINGS = [
  /** Every message was seen once. */
  "complete",
  /** Somebody wanted it to. */
  "stopped",
  /** The slice's time is up: the next one goes on. */
  "slice",
  /** It would have to keep more messages hidden than it may. */
  "held_limit",
  /** Sending, or the move task, failed again and again. */
  "failed",
] as const;

export type Ended = (typeof ENDINGS)[number];

export interface RedriveReport extends Totals {
  readonly dry_run: boolean;
  readonly method: "receive" | "move_task";
  /** Nothing is left to do for this replay: it is complete, or ended before. */
  readonly done: boolean;
  readonly ended: Ended;
  /** The first message ids of those over the limit. */
  readonly over_limit_ids: readonly string[];
  /** One sentence each, for an operator: the first of what went wrong. */
  readonly notes: readonly string[];
  /** Present while it is not done. */
  readonly continuation?: Continuation;
}

export const NO_TOTALS: Totals = { seen: 0, matching: 0, replayed: 0, failed: 0, kept: 0, over_limit: 0 };
