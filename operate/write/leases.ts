/** Takes leases away from workers. */

import type { ExecutionRecord } from "#operate/execution.ts";
import type { OperateContext } from "#operate/operation.ts";
import { callEach, type Verdict } from "#operate/write/changes.ts";
import { OPERATOR } from "#sdk/worker/complete-execution.ts";
import type { Reply } from "#shared/contract/reply.ts";
import { markLeaseExpiredIfDue, revokeLease } from "#shared/contract/upkeep.ts";
import { ProtocolError } from "#shared/errors.ts";
import { refusalError } from "#shared/valkey/batches.ts";

/** Whether the worker of an active execution can still report its outcome. */
export function hasLiveOwner(execution: ExecutionRecord): boolean {
  const { ownership_state: ownership, current_worker_id: worker } = execution.fields;
  // A command that ended between its claim and the outcome leaves a lease of the operator.
  return ownership === "leased" && worker !== OPERATOR && !isExpired(execution);
}

/**
 * Marks leases as expired, and revokes those whose time is not over. Afterwards any worker can take the executions over. One
 * verdict per execution, in order: `unchanged` if it has another lease by now, or none.
 */
export function endLeases(
  context: OperateContext,
  executions: readonly ExecutionRecord[],
  reason: string,
): Promise<Verdict[]> {
  return callEach(
    context,
    executions,
    (target, execution) => {
      const { current_worker_instance_id: instance, current_lease_id: lease } = execution.fields;
      return isExpired(execution)
        ? markLeaseExpiredIfDue(target)
        : revokeLease(target, instance, lease, reason);
    },
    verdictOf,
  );
}

function verdictOf(reply: Reply, functionName: string): Verdict {
  if (reply.kind === "done" && reply.status === "OK") {
    return { status: "changed", text: "its lease is released: any worker can take it over" };
  }
  const code = reply.kind === "done" ? (reply.fields[0] ?? "") : reply.code;
  const text = UNCHANGED.get(code);
  if (text !== undefined) return { status: "unchanged", code, text };
  if (reply.kind === "refused") throw refusalError(functionName, reply);
  throw new ProtocolError(`${functionName} replied ${code}`);
}

const NOT_RUNNING = "no worker runs it any more";
/** The replies to a call that came too late. */
const UNCHANGED: ReadonlyMap<string, string> = new Map([
  ["not_yet_expired", "its worker has renewed the lease meanwhile"],
  ["already_expired", "its lease was released meanwhile"],
  ["already_revoked", "its lease was released meanwhile"],
  ["stale_lease", "another worker has taken it over meanwhile"],
  ["not_active", NOT_RUNNING],
  ["unowned", NOT_RUNNING],
  ["no_active_lease", NOT_RUNNING],
  ["execution_not_active", NOT_RUNNING],
  ["execution_not_found", NOT_RUNNING],
]);

function isExpired({ fields, readAtMs }: ExecutionRecord): boolean {
  return Number(fields.lease_expires_at) <= readAtMs;
}
