/** Executions that a worker runs or should run: leases, timeouts, delays, admission. */

import { type Cause, cause } from "#operate/explain/causes.ts";
import { laneCauses, pauseCauses, reconcile } from "#operate/explain/lane.ts";
import { type ExplainContext, sluice } from "#operate/explain/read.ts";
import type { Subject } from "#operate/explain/subject.ts";
import { ago, duration, time } from "#operate/words.ts";
import { HELD_UNTIL_MS } from "#sdk/submission/roots.ts";
import { parseTime } from "#shared/contract/record.ts";

/** Clock differences and a renewal in flight must not look like a dead owner. */
const LEASE_MARGIN_MS = 2_000;

/** The causes of an execution that is eligible, delayed, held back by admission, or suspended. */
export async function runnableCauses(
  context: ExplainContext,
  subject: Subject,
  graceMs: number,
): Promise<Cause[]> {
  const { record, keys } = subject;
  if (record.lifecycle_phase === "suspended") {
    return [cause("suspended", "It is suspended until a signal arrives: FlowFabric resumes it.")];
  }
  switch (record.eligibility_state) {
    case "eligible_now":
      return laneCauses(context, subject, graceMs, "It can be claimed, and waits for a worker");
    case "not_eligible_until_time":
      return delayCauses(subject, graceMs);
    case "blocked_by_dependencies":
      return [];
    case "blocked_by_budget":
    case "blocked_by_quota":
    case "blocked_by_route":
    case "blocked_by_operator":
    case "blocked_by_lane_state":
      return [
        cause(
          "blocked_for_admission",
          `Admission holds it back: ${record.blocking_reason}${record.blocking_detail === "" ? "" : ` (${record.blocking_detail})`}. ` +
            "FlowFabric decides when it may run.",
        ),
      ];
    default:
      return [invalidState(subject, keys.id)];
  }
}

function delayCauses(subject: Subject, graceMs: number): Cause[] {
  const { record, nowMs } = subject;
  const untilMs = parseTime(record.delay_until);
  // A held root: the incomplete submission is the cause.
  if (untilMs === HELD_UNTIL_MS) return [];
  if (untilMs === undefined) return [invalidState(subject, subject.keys.id)];
  if (untilMs < nowMs - graceMs) {
    return [
      cause(
        "delay_overdue",
        `Its delay ended ${ago(untilMs, nowMs)}, and it is not released. The reconciler's task delays releases it, once a minute: ` +
          "is the reconciler running?",
        { next: [...reconcile(subject, "delays"), sluice("doctor")] },
      ),
    ];
  }
  const left =
    untilMs > nowMs ? `for another ${duration(untilMs - nowMs)}, until ${time(untilMs)}` : "until now";
  if (record.blocking_reason === "waiting_for_retry_backoff") {
    const reason = record.pending_retry_reason || record.failure_reason;
    return [
      cause(
        "retry_waiting",
        `Attempt ${record.total_attempt_count} failed${reason === "" ? "" : ` (${reason})`}, and the next one waits ${left}. ` +
          `It is retry ${record.retry_count}.`,
      ),
    ];
  }
  return [cause("delay_not_over", `It is delayed ${left}.`)];
}

/** The causes of an execution in the phase `active`. */
export async function activeCauses(
  context: ExplainContext,
  subject: Subject,
  graceMs: number,
): Promise<Cause[]> {
  const { record, nowMs, keys } = subject;
  const owner = record.current_worker_instance_id || record.current_worker_id || "a worker without a name";
  const release = [sluice("release", keys.id, "--dry-run"), sluice("release", keys.id)];
  const expiresAtMs = parseTime(record.lease_expires_at);
  switch (record.ownership_state) {
    case "leased":
      if (expiresAtMs === undefined || expiresAtMs + LEASE_MARGIN_MS < nowMs) {
        return [
          cause(
            "lease_expired",
            `Its owner ${owner} is dead: the lease ended ${ago(expiresAtMs, nowMs)} and was not renewed. The reconciler's task leases ` +
              "marks it, and then another worker of the lane takes it over.",
            { next: [...reconcile(subject, "leases"), ...release] },
          ),
        ];
      }
      return [
        cause(
          "running",
          `Worker ${owner} runs attempt ${Number(record.total_attempt_count)}; its lease lasts another ` +
            `${duration(expiresAtMs - nowMs)} unless it is renewed.`,
        ),
      ];
    case "lease_expired_reclaimable":
      return [
        cause(
          "lease_expired",
          `Its owner ${owner} is dead: the lease ended ${ago(expiresAtMs, nowMs)} and is marked. Another worker can take it over. ` +
            `It was taken over ${Number(record.lease_reclaim_count)} times before.`,
          { next: release },
        ),
        ...(await laneCauses(context, subject, graceMs, "It can be taken over, and waits for a worker")),
        ...(await pauseCauses(context, subject)),
      ];
    case "lease_revoked":
      return [
        cause(
          "lease_revoked",
          `The lease of ${owner} was revoked${record.lease_revoke_reason === "" ? "" : ` (${record.lease_revoke_reason})`}: another ` +
            "worker can take it over.",
        ),
        ...(await laneCauses(context, subject, graceMs, "It can be taken over, and waits for a worker")),
        ...(await pauseCauses(context, subject)),
      ];
    default:
      return [invalidState(subject, keys.id)];
  }
}

/** Times by which the execution should have ended. */
export function timeoutCauses(subject: Subject, graceMs: number): Cause[] {
  const { attemptTimeoutMs, deadlineMs, nowMs, record } = subject;
  if (record.lifecycle_phase === "terminal") return [];
  const passed = [
    { what: "The time of its attempt", atMs: attemptTimeoutMs },
    { what: "Its deadline", atMs: deadlineMs },
  ].filter(({ atMs }) => atMs !== undefined && atMs < nowMs - graceMs);
  return passed.map(({ what, atMs }) =>
    cause(
      "timeout_overdue",
      `${what} ended ${ago(atMs, nowMs)}, and it has not expired. The reconciler's task timeouts ends it, once a minute: is the ` +
        "reconciler running?",
      { next: [...reconcile(subject, "timeouts"), sluice("doctor")] },
    ),
  );
}

/** A record whose state the contract does not define. */
export function invalidState({ record }: Subject, id: string): Cause {
  return cause(
    "record_invalid",
    `Its record has a state that the contract does not define: phase ${record.lifecycle_phase || "none"}, ownership ` +
      `${record.ownership_state || "none"}, eligibility ${record.eligibility_state || "none"}, delay ${record.delay_until || "none"}. ` +
      "Cancel it, or repair the record.",
    { next: [sluice("doctor"), sluice("cancel", id, "--dry-run")] },
  );
}
