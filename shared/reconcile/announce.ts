import { announceUnmarked, type ToAnnounce } from "#shared/ready/announce.ts";
import type { TaskRun } from "#shared/reconcile/run.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";

/**
 * Announces executions that the reconciler has just made eligible or reclaimable, unless they are announced already.
 *
 * Such a message is certainly not in the queue yet, so it is sent whatever the queue holds. If it is not sent, because the
 * process dies before or the queue refuses it, the execution stays unclaimed, and its message is sent again after the grace
 * (`ready-resend.ts`).
 */
export async function announceAvailable(run: TaskRun, executions: readonly ToAnnounce[]): Promise<void> {
  const { readyQueues, valkey, router, deadlineMs } = run.ports;
  if (readyQueues === undefined || executions.length === 0) return;
  const ports = { valkey, router, ready: readyQueues.publisher };
  const { results, markError } = await announceUnmarked(ports, executions, deadlineMs);
  run.count(METRICS.readyAnnounced, results.filter(({ kind }) => kind === "announced").length);
  for (const result of results) {
    if (result.kind !== "failed") continue;
    run.unsent += 1;
    run.warn("ready message not sent, will retry", { reason: result.error.message });
  }
  if (markError !== undefined) {
    run.warn("marks of ready messages not written: they may be sent again", { reason: markError.message });
  }
}
