/** A workflow as a user describes it: tasks and the edges between them. */

import type { LaneId } from "#shared/contract/ids.ts";

/** A workflow as `parseWorkflow` returns it, or as an application builds it. */
export interface Workflow {
  readonly name: string;
  /** In the file's order. Ids are distinct. */
  readonly tasks: readonly Task[];
  /** Between tasks of this workflow, without cycles and duplicates. */
  readonly edges: readonly WorkflowEdge[];
}

/** A task of a workflow. In Valkey it becomes an execution. docs/workflows.md has the limits of every setting. */
export interface Task {
  readonly id: string;
  readonly lane: LaneId;
  /** A higher priority is claimed first. */
  readonly priority: number;
  /** Passed to the worker, at most 256 KiB. Empty: no payload. */
  readonly payload: string;
  /** What kind of work it is, for workers and tools. Stored as `execution_kind`; `task` if omitted. */
  readonly kind?: string | undefined;
  /** Without it, a failure is final. */
  readonly retry?: RetryPolicy | undefined;
  /** How long one attempt may run. */
  readonly timeoutSeconds?: number | undefined;
  /** How often the execution may be reclaimed from a worker that lost its lease. */
  readonly maxReclaims?: number | undefined;
  /** The task does not run before this time after the submission, even if its dependencies succeeded earlier. */
  readonly delaySeconds?: number | undefined;
  /** The task expires if it has not ended by then: a time in ISO 8601, or seconds after the submission. */
  readonly deadline?: string | number | undefined;
  /** Prolongs how long the record is kept after its end. */
  readonly retentionHours?: number | undefined;
  /** How many dependencies must succeed. All of them, if omitted. */
  readonly waitFor?: WaitFor | undefined;
}

/** When a failed task is tried again. */
export interface RetryPolicy {
  /** All attempts together, the first one included. */
  readonly attempts: number;
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

/** A group of edges. Exactly one of `anyOf` and `quorum` is given. Needs the 14-KEYS edition of the library. */
export interface WaitFor {
  /** One dependency must succeed. */
  readonly anyOf?: true | undefined;
  /** So many dependencies must succeed. */
  readonly quorum?: number | undefined;
  /** What happens to the other dependencies once the group is decided: they are cancelled, or they run on. */
  readonly onSatisfied: "cancelRemaining" | "letRun";
}

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
