/** What becomes of a message whose errors are known: done, back to the queue, or to the dead letters at once. */

import { RefusedError, type SluiceError } from "#shared/errors.ts";

/** What `ff_resolve_dependency` says once and not again: a repeated call finds the edge resolved. */
export const INVARIANT_VIOLATION = "invariant_violation";

export interface Verdict {
  /** Why the message goes to the dead-letter queue now; undefined: it does not. */
  readonly deadLetter: SluiceError | undefined;
  /** Whether it must be delivered again, whatever became of the dead letter. */
  readonly mustComeAgain: boolean;
}

/**
 * A message goes to the dead letters when nothing that it suffers from can heal. While something can, it comes
 * again, and is judged then; but a violated invariant is reported the first time, since a retry would not see it.
 */
export function judge(errors: readonly SluiceError[]): Verdict {
  const mustComeAgain = errors.some(({ retryable }) => retryable);
  const violation = errors.find(
    (fault) => fault instanceof RefusedError && fault.code === INVARIANT_VIOLATION,
  );
  return { deadLetter: violation ?? (mustComeAgain ? undefined : errors[0]), mustComeAgain };
}
