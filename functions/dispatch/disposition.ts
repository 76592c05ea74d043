import { RefusedError, type SluiceError } from "#shared/errors.ts";

/** The refusal that `ff_resolve_dependency` gives once: a repeated call finds the edge resolved. */
export const INVARIANT_VIOLATION = "invariant_violation";

/** What happens to a message that failed. */
export interface Disposition {
  /** Why the message goes to the dead-letter queue now; undefined when it does not. */
  readonly deadLetter: SluiceError | undefined;
  /** Whether the message is retried, even when its dead letter was accepted. */
  readonly retry: boolean;
}

/**
 * A message is dead-lettered when none of its errors is retryable. While one is, it is retried, and classified again
 * then. A violated invariant is dead-lettered the first time, since a retry would not see it.
 */
export function classifyFailures(errors: readonly SluiceError[]): Disposition {
  const retry = errors.some(({ retryable }) => retryable);
  const violation = errors.find(
    (error) => error instanceof RefusedError && error.code === INVARIANT_VIOLATION,
  );
  return { deadLetter: violation ?? (retry ? undefined : errors[0]), retry };
}
