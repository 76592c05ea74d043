import type { AttemptIndex, EdgeId, ExecutionId, FlowId } from "#shared/contract/ids.ts";
import type { ExecKeys, FlowKeys, IndexKeys, LaneKeys } from "#shared/contract/keys.ts";
import type { UpstreamEnd } from "#shared/contract/resolve.ts";
import type { SluiceError } from "#shared/errors.ts";
import type { Readiness } from "#shared/ready/readiness.ts";

/** One completed execution of a batch. If several messages report it, the one with the lowest depth counts. */
export interface CompletedExecution {
  readonly executionId: ExecutionId;
  readonly flowId: FlowId;
  readonly depth: number;
  /** How often its cascade was restarted at the depth limit. */
  readonly generation: number;
  readonly root: ExecutionId;
  readonly traceparent: string | undefined;
}

/** Whether a cascade has come through fewer levels at `one` than at `other`: fewer restarts, then a lower depth. */
export function isShallower(
  one: Pick<CompletedExecution, "depth" | "generation">,
  other: Pick<CompletedExecution, "depth" | "generation">,
): boolean {
  return one.generation === other.generation ? one.depth < other.depth : one.generation < other.generation;
}

/** A completed execution and its outgoing edges. */
export interface FanOutPlan {
  readonly execution: CompletedExecution;
  /** The record's `completed_at`. It identifies this end of the execution: a replayed execution ends at another time. */
  readonly completedAt: string;
  readonly edges: readonly EdgeToResolve[];
}

/** One staged edge of a completed execution. */
export interface EdgeToResolve {
  readonly execution: CompletedExecution;
  /** How the upstream ended, according to its record. */
  readonly upstream: UpstreamEnd;
  readonly edge: EdgeId;
  readonly flow: FlowKeys;
  readonly flowIndex: IndexKeys;
}

/** An edge and its child, as read before the call. */
export interface ChildToResolve {
  readonly edge: EdgeToResolve;
  readonly child: ExecKeys;
  /** Undefined when the child has no record. */
  readonly lane: LaneKeys | undefined;
  readonly attempt: AttemptIndex;
  readonly state: ChildState;
  /** How to announce the child once it can run. Undefined if its lane has no ready queue, or if it was announced. */
  readonly readiness: Readiness | undefined;
}

/** Whether a child is skipped, and whether that skip is published. */
export interface ChildState {
  /** The record's `terminal_outcome`; empty when it has none. */
  readonly outcome: string;
  /** The record's `completed_at`. It identifies one skip: an execution that is replayed and skipped again has another. */
  readonly completedAt: string;
  /** The mark: the `completed_at` of the skip whose completion the queue accepted. Empty when there is none. */
  readonly publishedFor: string;
}

/** A child that workers can claim now, and that no ready message was sent for. */
export interface ReadyChild {
  readonly cause: ChildToResolve;
  readonly readiness: Readiness;
}

/** A skipped child. Its completion must be published, so that its children are updated too. */
export interface SkippedChild {
  readonly cause: ChildToResolve;
  /** The `completed_at` of this skip. */
  readonly completedAt: string;
  /** True when another delivery skipped the child. That delivery may be about to publish it, or may have died. */
  readonly isInherited: boolean;
}

/** The result of one edge. A message is acknowledged only if every edge is `done` or `unreadable`. */
export type EdgeResult =
  /** The child is updated and, if it was skipped, published. */
  | { readonly kind: "done" }
  /** The library refused the call: the upstream was replayed since its record was read. Nothing was written. */
  | { readonly kind: "upstream_changed" }
  /** An id of the edge is malformed. The edge was logged and counted, and a retry would not change it. */
  | { readonly kind: "unreadable" }
  | { readonly kind: "failed"; readonly error: SluiceError }
  /** Not resolved, because the invocation ran out of time. */
  | { readonly kind: "deferred" };

/** The result of one completed execution. */
export type DispatchResult =
  /** All of its children are updated. */
  | { readonly kind: "dispatched" }
  /** A gate stopped it: no child has to be updated, or none may be updated. */
  | { readonly kind: "stopped"; readonly gate: "no_flow" | "depth_limit" | "not_terminal" | "flow_purged" }
  /** Some of its edges are not updated. The first errors say why. */
  | { readonly kind: "failed"; readonly errors: readonly [SluiceError, ...SluiceError[]] };

export const DONE: EdgeResult = { kind: "done" };
export const DEFERRED: EdgeResult = { kind: "deferred" };

export function failed(error: SluiceError): { readonly kind: "failed"; readonly error: SluiceError } {
  return { kind: "failed", error };
}
