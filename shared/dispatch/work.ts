import type { AttemptIndex, EdgeId, ExecutionId, FlowId } from "#shared/contract/ids.ts";
import type { ExecKeys, FlowKeys, IndexKeys, LaneKeys } from "#shared/contract/keys.ts";
import type { TerminalOutcome } from "#shared/contract/record.ts";
import type { SluiceError } from "#shared/errors.ts";

/** One completed execution of a batch, while its children are dealt with. */
export interface Work {
  readonly executionId: ExecutionId;
  readonly flowId: FlowId;
  /** The least of the depths that the batch has for this execution. */
  depth: number;
  readonly root: ExecutionId;
  readonly traceparent: string | undefined;
  /** Why its message must come again. Empty at the end: everything is done. */
  readonly errors: SluiceError[];
}

/** A completed execution and the edges that are still to be resolved. */
export interface FanOutPlan {
  readonly work: Work;
  /** The record's `completed_at`. It names this end of the execution: replayed, it ends at another time. */
  readonly completedAt: string;
  readonly edges: readonly EdgeWork[];
}

/** One staged edge of a completed execution. */
export interface EdgeWork {
  readonly work: Work;
  /** How the upstream ended. */
  readonly outcome: TerminalOutcome;
  readonly edge: EdgeId;
  readonly flow: FlowKeys;
  readonly flowIndex: IndexKeys;
}

/** An edge and its child, as the child's record stood before the edge was resolved. */
export interface ChildWork extends EdgeWork {
  readonly child: ExecKeys;
  /** Undefined where the child's record is gone. */
  readonly lane: LaneKeys | undefined;
  readonly attempt: AttemptIndex;
  readonly state: ChildState;
}

/** What the cascade needs to know of a child. */
export interface ChildState {
  /** The record's `terminal_outcome`; empty where there is none. */
  readonly outcome: string;
  /** The record's `completed_at`. It names one skip of the execution: replayed and skipped again, it has another. */
  readonly completedAt: string;
  /** The `completed_at` of the skip whose cascade the queue has accepted; empty: of none. */
  readonly cascaded: string;
}

/** A child that was skipped and whose own children have not heard of it. */
export interface Cascade {
  readonly cause: ChildWork;
  readonly completedAt: string;
  /** Whether another delivery skipped the child, and may be about to publish it or be dead. */
  readonly isInherited: boolean;
}
