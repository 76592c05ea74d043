import type { DispatchResult } from "#shared/dispatch/types.ts";
import { PublishError, RefusedError, type SluiceError } from "#shared/errors.ts";

/** The refusal that `ff_resolve_dependency` gives once: a repeated call finds the edge resolved. */
export const INVARIANT_VIOLATION = "invariant_violation";

/** How a failed message is handled: dead-lettered, retried, or both. */
export interface Disposition {
  /** Why the message goes to the dead-letter queue now; undefined when it does not. */
  readonly deadLetter: SluiceError | undefined;
  /** Whether the message is retried, even when its dead letter was accepted. */
  readonly retry: boolean;
}

/**
 * A message with a retryable error is retried, and classified again at its next delivery. Without one, it is
 * dead-lettered. An invariant violation is dead-lettered at once: at the next delivery, the edge is already resolved, and
 * the library does not report it again.
 */
export function classifyFailures(errors: readonly SluiceError[]): Disposition {
  const retry = errors.some(({ retryable }) => retryable);
  const violation = errors.find(
    (error) => error instanceof RefusedError && error.code === INVARIANT_VIOLATION,
  );
  return { deadLetter: violation ?? (retry ? undefined : errors[0]), retry };
}

/**
 * Whether a message may be dispatched once more in the same invocation, on a new connection to Valkey. Not after a send
 * without an answer: the queue may have accepted it, and a second send would duplicate it.
 */
export function mayStartOver(result: DispatchResult): boolean {
  if (result.kind !== "failed") return false;
  return !result.errors.some((error) => error instanceof PublishError && error.outcome === "unknown");
}
