/** State vectors of the contract (section 4), without `attempt_state`. */

function vector(
  phase: string,
  ownership: string,
  eligibility: string,
  reason: string,
  outcome: string,
  publicState: string,
): Readonly<Record<string, string>> {
  return {
    lifecycle_phase: phase,
    ownership_state: ownership,
    eligibility_state: eligibility,
    blocking_reason: reason,
    blocking_detail: "",
    terminal_outcome: outcome,
    public_state: publicState,
  };
}

export const WAITING = vector("runnable", "unowned", "eligible_now", "waiting_for_worker", "none", "waiting");
export const DELAYED = vector(
  "runnable",
  "unowned",
  "not_eligible_until_time",
  "waiting_for_delay",
  "none",
  "delayed",
);
export const RETRYING = { ...DELAYED, blocking_reason: "waiting_for_retry_backoff" };
export const BLOCKED = vector(
  "runnable",
  "unowned",
  "blocked_by_dependencies",
  "waiting_for_children",
  "none",
  "waiting_children",
);
export const ACTIVE = vector("active", "leased", "not_applicable", "none", "none", "active");

export function ended(
  outcome: "success" | "failed" | "cancelled" | "skipped",
): Readonly<Record<string, string>> {
  const publicState = outcome === "success" ? "completed" : outcome;
  return vector("terminal", "unowned", "not_applicable", "none", outcome, publicState);
}
