/** Why an execution was skipped, as its record has it: two fields of Sluice's own (contract, section 6, shared transitions). */

import { type ExecutionId, parseExecutionId } from "#shared/contract/ids.ts";

/** The fields of a record that `parseSkipRoot` reads, in this order. */
export const SKIP_FIELDS = ["terminal_outcome", "skip_root", "skip_reason"] as const;

/** The execution whose end started the cascade, and why it ended. */
export interface SkipRoot {
  readonly execution: ExecutionId;
  /** `<outcome>: <why>`, for example `failed: connection refused`; the first 64 bytes. The root's record has all of it. */
  readonly reason: string;
}

/**
 * Returns the root of a skip from the values of `SKIP_FIELDS`. Undefined if the execution is not skipped, or if a library
 * skipped it that does not record the root (FlowFabric's, or Sluice 0.1's): then only its edges lead to the root.
 */
export function parseSkipRoot([outcome, root = "", reason = ""]: readonly string[]): SkipRoot | undefined {
  const id = parseExecutionId(root);
  return outcome === "skipped" && id.ok ? { execution: id.value, reason } : undefined;
}
