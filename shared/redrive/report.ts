/** The report of a replay, and the continuation that its next slice needs. */

/** A message that stays in the queue and is hidden until the pass ends: its id and its latest receipt handle. */
export type HiddenMessage = readonly [id: string, handle: string];

/** The state of a pass between two slices. Times are in milliseconds since the epoch. */
export interface ReceiveContinuation {
  readonly pass: "receive";
  readonly started_at: number;
  readonly next_send_at: number;
  readonly totals: Totals;
  readonly held: readonly HiddenMessage[];
}

/** The state of a replay between two slices. Callers pass it on unchanged. */
export type Continuation = ReceiveContinuation | { readonly pass: "move_task"; readonly task_handle: string };

/**
 * Counts of messages. `seen` = `matching` + `kept` + `over_limit`. In a replay, `matching` = `replayed` + `failed`; a dry
 * run has neither.
 */
export interface Totals {
  readonly seen: number;
  /** Selected by the filter and below the replay limit. */
  readonly matching: number;
  readonly replayed: number;
  /** Not accepted by the completions queue. They stay. */
  readonly failed: number;
  /** Not selected by the filter, or dead-lettered after the pass began. They stay. */
  readonly kept: number;
  /** Selected, but at the replay limit. They stay. */
  readonly over_limit: number;
}

/** Why a slice ended. Every reason except `slice` also ends the replay. */
export const END_REASONS = [
  /** Every message was seen once. */
  "complete",
  /** The operator stopped it. */
  "stopped",
  /** The deadline was reached. The next slice continues. */
  "slice",
  /** The limit of hidden messages was reached. */
  "held_limit",
  /** Sending failed repeatedly, or the move task failed. */
  "failed",
] as const;

export type EndReason = (typeof END_REASONS)[number];

export interface RedriveReport extends Totals {
  readonly dry_run: boolean;
  readonly method: "receive" | "move_task";
  /** True once the replay has ended, complete or not. */
  readonly done: boolean;
  readonly ended: EndReason;
  /** Ids of the first messages over the limit. */
  readonly over_limit_ids: readonly string[];
  /** The first problems, one sentence each. */
  readonly notes: readonly string[];
  /** Present while `done` is false. */
  readonly continuation?: Continuation;
}

export const NO_TOTALS: Totals = { seen: 0, matching: 0, replayed: 0, failed: 0, kept: 0, over_limit: 0 };
