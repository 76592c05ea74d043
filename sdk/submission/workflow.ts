/** A workflow as a user describes it: tasks and the edges between them, before anything is in Valkey. */

import type { LaneId } from "#shared/contract/ids.ts";

/** Priorities are whole numbers from 0; a higher one is claimed first (contract, section 4). */
export const MAX_PRIORITY = 9_000;

export interface Workflow {
  readonly name: string;
  /** In the file's order, ids distinct. */
  readonly tasks: readonly Task[];
  /** Between tasks of this workflow; no cycle, no edge twice. */
  readonly edges: readonly WorkflowEdge[];
}

export interface Task {
  readonly id: string;
  readonly lane: LaneId;
  /** 0 to `MAX_PRIORITY`. */
  readonly priority: number;
  /** What the worker gets; empty: nothing. */
  readonly payload: string;
  /** Absent: a failure is final. */
  readonly retryPolicy?: RetryPolicy;
}

export interface RetryPolicy {
  /** Attempts after the first one. */
  readonly maxRetries: number;
  readonly backoff: Backoff;
}

/** How long a failed task waits for its next attempt; all times are milliseconds. */
export type Backoff =
  | { readonly type: "fixed"; readonly delayMs: number }
  | {
      readonly type: "exponential";
      readonly initialDelayMs: number;
      readonly maxDelayMs: number;
      readonly multiplier: number;
    };

export interface WorkflowEdge {
  /** The upstream task's id. */
  readonly from: string;
  /** The downstream task's id. */
  readonly to: string;
  /**
   * Whether the upstream's result becomes the downstream's payload. Where several edges of one task do
   * this, the result of the upstream that is resolved last stays.
   */
  readonly dataPassing: boolean;
}
