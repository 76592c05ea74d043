/** A workflow as a user describes it: tasks and the edges between them. */

import type { LaneId } from "#shared/contract/ids.ts";

/** The highest priority. Priorities are integers from 0, and a higher one is claimed first (contract, section 4). */
export const MAX_PRIORITY = 9_000;

/** A workflow as `parseWorkflow` returns it. */
export interface Workflow {
  readonly name: string;
  /** In the file's order. Ids are distinct. */
  readonly tasks: readonly Task[];
  /** Between tasks of this workflow, without cycles and duplicates. */
  readonly edges: readonly WorkflowEdge[];
}

/** A task of a workflow. In Valkey it becomes an execution. */
export interface Task {
  readonly id: string;
  readonly lane: LaneId;
  /** 0 to `MAX_PRIORITY`. */
  readonly priority: number;
  /** Passed to the worker. Empty: no payload. */
  readonly payload: string;
  /** Without a retry policy, a failure is final. */
  readonly retryPolicy?: RetryPolicy;
}

/** When a failed task is tried again. */
export interface RetryPolicy {
  /** Attempts after the first one. */
  readonly maxRetries: number;
  readonly backoff: Backoff;
}

/** The delay before the next attempt of a failed task, in milliseconds. */
export type Backoff =
  | { readonly type: "fixed"; readonly delayMs: number }
  | {
      readonly type: "exponential";
      readonly initialDelayMs: number;
      readonly maxDelayMs: number;
      readonly multiplier: number;
    };

/** A dependency: `to` runs after `from` has succeeded. */
export interface WorkflowEdge {
  /** Id of the upstream task. */
  readonly from: string;
  /** Id of the downstream task. */
  readonly to: string;
  /**
   * Whether the upstream's result becomes the downstream's payload. If several edges of one task pass data, the upstream
   * that is resolved last wins.
   */
  readonly dataPassing: boolean;
}
