/** Why no worker has taken an execution that a worker can claim. */

import { type Cause, cause } from "#operate/explain/causes.ts";
import { type ExplainContext, sluice } from "#operate/explain/read.ts";
import type { Subject } from "#operate/explain/subject.ts";
import { type LaneReport, lanes } from "#operate/read/lanes.ts";
import { ago, duration, plural } from "#operate/words.ts";
import { readAll } from "#shared/consistency/read.ts";
import { command } from "#shared/contract/command.ts";
import type { LaneId } from "#shared/contract/ids.ts";
import { parseTime } from "#shared/contract/record.ts";
import { SUBMISSION_FIELDS } from "#shared/contract/submission.ts";
import { eligibilityOf } from "#shared/ready/marks.ts";
import { type LanePause, readPauses } from "#shared/ready/paused-lanes.ts";

/**
 * The causes for an execution that can be claimed, or reclaimed after its lease ended. `action` says which: it begins the text
 * of the basic cause. A pause is `pauseCauses`'.
 */
export async function laneCauses(
  context: ExplainContext,
  subject: Subject,
  graceMs: number,
  action: string,
): Promise<Cause[]> {
  const { lane, nowMs, record } = subject;
  if (lane === undefined) return [];
  const [[report], ahead] = await Promise.all([
    lanes.run(context, { lanes: [lane], limit: 1 }).then((answer) => answer.lanes),
    readAhead(context, subject, lane),
  ]);
  if (report === undefined) return [];
  const sinceMs = eligibleSince(subject);
  const isOverdue = sinceMs === undefined || nowMs - sinceMs > graceMs;
  const causes: Cause[] = [];
  if (report.state !== "paused") {
    causes.push(basicCause(subject, report, { action, ahead, sinceMs, isOverdue }));
  }
  if (subject.hasGrant) {
    causes.push(
      cause("claim_granted", "A worker holds a grant to claim it: the claim is expected within seconds."),
    );
  }
  if (context.queues.ready.has(lane) && isOverdue && !isAnnounced(subject)) {
    causes.push(
      cause(
        "not_announced",
        `Lane ${lane} has a ready queue, and no message of this execution is recorded. The reconciler's task ready sends it.`,
        { involved: { lanes: [lane] }, next: reconcile(subject, "ready") },
      ),
    );
  }
  if (record.required_capabilities !== "") causes.push(capabilityCause(subject));
  return causes;
}

/** Whether an operator has paused the lane. Counts for an execution that waits for anything, since a worker is its last step. */
export async function pauseCauses({ valkey }: ExplainContext, subject: Subject): Promise<Cause[]> {
  const { lane, nowMs } = subject;
  if (lane === undefined) return [];
  const pause = (await readPauses(valkey)).get(lane);
  return pause === undefined ? [] : [pauseCause(lane, pause, nowMs)];
}

function pauseCause(lane: LaneId, { pausedAtMs, actor, reason }: LanePause, nowMs: number): Cause {
  const who = actor === "" ? "" : ` by ${actor}`;
  return cause(
    "lane_paused",
    `Lane ${lane} was paused ${ago(pausedAtMs, nowMs)}${who}${reason === "" ? "" : `: ${reason}`}. No worker begins an attempt in it ` +
      "until it is resumed.",
    { involved: { lanes: [lane] }, next: [sluice("lanes", "resume", lane)] },
  );
}

interface Wait {
  readonly action: string;
  readonly ahead: number;
  readonly sinceMs: number | undefined;
  readonly isOverdue: boolean;
}

function basicCause(
  { keys, nowMs }: Subject,
  report: LaneReport,
  { action, ahead, sinceMs, isOverdue }: Wait,
): Cause {
  const { lane } = report;
  const waited = sinceMs === undefined ? "" : ` for ${duration(nowMs - sinceMs)}`;
  const facts = describeLane(report, nowMs);
  const involved = { lanes: [lane] };
  if (report.state === "not_served" && isOverdue) {
    return cause(
      "lane_without_worker",
      `${action}${waited}, and no worker serves lane ${lane}. ${facts} Start a worker for the lane, or look at the errors of the one ` +
        "that should serve it.",
      { involved, next: [sluice("lanes"), sluice("doctor")] },
    );
  }
  const queue = report.ready_queue;
  if (queue !== undefined && queue.visible > 0 && isOverdue) {
    // Its message is one of them: a ready queue has no order and no priorities.
    return cause("lane_backlog", `${action}${waited}. ${facts} Add workers.`, {
      count: queue.visible,
      involved,
      next: [sluice("lanes")],
    });
  }
  if (queue === undefined && ahead > 0 && isOverdue) {
    return cause(
      "lane_backlog",
      `${action}${waited} behind ${plural(ahead, "execution")} of its partition. ${facts} Add workers, or give it a higher priority.`,
      {
        count: ahead,
        involved,
        next: [sluice("lanes"), sluice("prioritize", keys.id, "--priority", "9000", "--dry-run")],
      },
    );
  }
  return cause("waiting_for_worker", `${action}${waited}. ${facts}`, { involved, next: [sluice("lanes")] });
}

function isAnnounced({ record, flow }: Subject): boolean {
  // The marks of executions outside a flow are not read: they count as announced.
  return (
    flow === undefined || flow.announcedFor === eligibilityOf(record.replay_count, record.total_attempt_count)
  );
}

/** Command lines that run one task of the reconciler now. */
export function reconcile({ flow }: Subject, task: string): string[] {
  const line = sluice("reconcile", ...(flow === undefined ? [] : ["--flow", flow.keys.id]), "--task", task);
  return [`${line} --dry-run`, line];
}

function capabilityCause({ record, nowMs }: Subject): Cause {
  const refusedAtMs = parseTime(record.last_capability_mismatch_at);
  const refused =
    refusedAtMs === undefined ? "" : ` A worker without them was refused ${ago(refusedAtMs, nowMs)}.`;
  return cause(
    "capabilities_required",
    `Only a worker with the capabilities ${record.required_capabilities} can take it.${refused}`,
    { next: [sluice("lanes")] },
  );
}

/** Since when it can be claimed. A root that an earlier release let go has a time in the future: the end of its submission counts. */
function eligibleSince({ record, flow, nowMs }: Subject): number | undefined {
  const times = [
    record.last_transition_at,
    flow?.core[SUBMISSION_FIELDS.completedAt] ?? "",
    record.created_at,
  ];
  return times.map(parseTime).find((time) => time !== undefined && time <= nowMs);
}

/** Executions of the same partition that are claimed before this one. */
async function readAhead(
  context: ExplainContext,
  { keys: { id, partition } }: Subject,
  lane: LaneId,
): Promise<number> {
  const { eligible } = context.router.indexKeys(partition).lane(lane);
  const [rank] = await readAll(context, [command(partition, "zrank", eligible, id)]);
  return Number(rank ?? 0);
}

function describeLane(report: LaneReport, nowMs: number): string {
  const { eligible, active, expired_leases: expired, last_claim_at: claimedAt, ready_queue: queue } = report;
  return `${[
    `The lane has ${plural(eligible, "execution")} that can be claimed and ${active.toLocaleString("en-US")} active` +
      `${expired === 0 ? "" : `, ${expired.toLocaleString("en-US")} of them with an expired lease`}`,
    claimedAt === undefined ? "no claim is recorded" : `the last claim was ${ago(claimedAt, nowMs)}`,
    ...(queue === undefined
      ? []
      : [`its ready queue holds ${plural(queue.visible + queue.in_flight + queue.delayed, "message")}`]),
  ].join("; ")}.`;
}
