import type { PublishError } from "#shared/errors.ts";
import type { ExecutionId, FlowId } from "#shared/ids.ts";

/** One completed execution, on its way to the dispatcher (contract, section 8). */
export interface Completion {
  readonly executionId: ExecutionId;
  readonly flowId: FlowId;
  /** A hint for people, and whatever its sender wrote: the record in Valkey is the truth. */
  readonly outcome: string;
  /** Levels of skipped executions between the root and this one. */
  readonly depth: number;
  /** The execution whose outcome began the cascade. */
  readonly root: ExecutionId;
  /** W3C trace context, passed on as it came. */
  readonly traceparent?: string;
}

export type SendResult = { readonly ok: true } | { readonly ok: false; readonly error: PublishError };

/** Where completions are sent. */
export interface CompletionSink {
  /**
   * Sends all of them; results are in the completions' order. Never rejects. What is not accepted by `deadlineMs`
   * (milliseconds since the epoch; none unless given) is given up.
   */
  send(completions: readonly Completion[], deadlineMs?: number): Promise<SendResult[]>;
}
