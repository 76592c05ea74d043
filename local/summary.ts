import type { PollerCounts } from "#local/poller.ts";
import type { RunResult } from "#local/run.ts";

/** What `--json` ends with. The names are for other programs: do not change them. */
export interface Summary {
  readonly flow_id: string;
  readonly tasks: number;
  readonly edges: number;
  readonly success: number;
  /** Ended in another way than by success or by being skipped. */
  readonly failed: number;
  readonly skipped: number;
  readonly unfinished: number;
  /** Different messages that the function received. */
  readonly messages: number;
  /** The greatest depth among them. */
  readonly max_depth: number;
  readonly seconds: number;
}

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

/** The summary for a person: a few lines. */
export function describe(name: string, summary: Summary): string {
  const { flow_id, tasks, edges, success, failed, skipped, unfinished, messages, max_depth, seconds } =
    summary;
  return [
    `${name}: ${tasks} tasks, ${edges} edges, flow ${flow_id}`,
    `  ${success} succeeded, ${failed} failed, ${skipped} skipped, ${unfinished} unfinished`,
    `  ${messages} messages, greatest depth ${max_depth}, ${seconds.toFixed(1)} s`,
  ].join("\n");
}

/** Why a run did not come to its end, as far as that can be known from outside. Never empty. */
export function reasonsOf(
  { status, deadLetters }: RunResult,
  counts: PollerCounts,
  maxCascadeDepth: number,
): string[] {
  const { ready, active, blocked } = status;
  const reasons = [`nothing moves any more: ${ready} ready, ${active} active, ${blocked} blocked`];
  if (counts.maxDepth > maxCascadeDepth) {
    reasons.push(
      `a cascade of skipped tasks came to depth ${counts.maxDepth} and was cut off: MAX_CASCADE_DEPTH is ${maxCascadeDepth}`,
    );
  }
  if (active > 0) reasons.push(`${active} tasks were taken by a worker that could not write how they ended`);
  if (deadLetters > 0) reasons.push(`the queue gave up ${deadLetters} messages after too many deliveries`);
  return reasons;
}
