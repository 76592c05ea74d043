import type { PollerCounts } from "#local/poller.ts";
import type { RunResult } from "#local/run.ts";

/** The line of `--json`. Other programs read it: do not rename its fields. */
export interface Summary {
  readonly flow_id: string;
  readonly tasks: number;
  readonly edges: number;
  readonly success: number;
  /** Ended as failed, cancelled or expired. */
  readonly failed: number;
  readonly skipped: number;
  readonly unfinished: number;
  /** Distinct messages that the dispatch function received. */
  readonly messages: number;
  /** The greatest cascade depth among these messages. */
  readonly max_depth: number;
  readonly seconds: number;
}

/** Sums up a run. `failed` includes cancelled and expired executions. */
export function summaryOf(result: RunResult, counts: PollerCounts): Summary {
  const { success, failed, cancelled, expired, skipped } = result.status.ended;
  return {
    flow_id: result.flowId,
    tasks: result.submission.taskCount,
    edges: result.submission.edgeCount,
    success,
    failed: failed + cancelled + expired,
    skipped,
    unfinished: result.unfinished,
    messages: counts.messages,
    max_depth: counts.maxDepth,
    seconds: result.seconds,
  };
}

/** The first line of the result: which workflow ran. */
export function describeWorkflow(name: string, { flow_id, tasks, edges }: Summary): string {
  return `${name}: ${tasks} tasks, ${edges} edges, flow ${flow_id}`;
}

/** The last lines of the result: how the tasks ended. */
export function describeSummary(summary: Summary): string {
  const { success, failed, skipped, unfinished, messages, max_depth, seconds } = summary;
  return [
    `${success} succeeded, ${failed} failed, ${skipped} skipped, ${unfinished} unfinished`,
    `${messages} messages, cascade depth ${max_depth}, ${seconds.toFixed(1)} s`,
  ].join("\n");
}

/** The likely reasons why a run is incomplete, as far as they are visible from outside. Never empty. */
export function incompleteReasons(
  { status, deadLetters }: RunResult,
  counts: PollerCounts,
  maxCascadeDepth: number,
): string[] {
  const { ready, active, blocked } = status;
  const reasons = [`no progress any more: ${ready} ready, ${active} active, ${blocked} blocked`];
  if (counts.maxDepth > maxCascadeDepth) {
    reasons.push(`a skip cascade reached depth ${counts.maxDepth}: MAX_CASCADE_DEPTH is ${maxCascadeDepth}`);
  }
  if (active > 0) reasons.push(`${active} tasks are still leased by a worker that failed to end them`);
  if (deadLetters > 0) {
    reasons.push(`${deadLetters} messages reached the delivery limit and are in the dead-letter queue`);
  }
  return reasons;
}
