/** Why no worker has taken an execution that a worker can claim. */

import { type Cause, cause } from "#operate/explain/causes.ts";
import { type ExplainContext, hashOf, hashRead, readAll, sluice, textsOf } from "#operate/explain/read.ts";
import type { Subject } from "#operate/explain/subject.ts";
import { ago, duration, plural } from "#operate/words.ts";
import { command } from "#shared/contract/command.ts";
import { type ExecutionId, type LaneId, parseExecutionId } from "#shared/contract/ids.ts";
import { fieldText, parseTime } from "#shared/contract/record.ts";
import { SUBMISSION_FIELDS } from "#shared/contract/submission.ts";
import { QueueError } from "#shared/errors.ts";
import { SqsBacklog } from "#shared/queue/backlog.ts";
import { eligibilityOf } from "#shared/ready/marks.ts";

/** What all partitions say of a lane. */
interface LaneState {
  readonly eligible: number;
  readonly active: number;
  /** Leases that have not ended, of at most `MAX_LEASES` active executions. */
  readonly liveLeases: number;
  /** Executions of the same partition that are claimed before this one. */
  readonly ahead: number;
}

/** Active executions whose leases are read. */
const MAX_LEASES = 200;
const LEASES_PER_PARTITION = 10;

/**
 * The causes for an execution that can be claimed, or reclaimed after its lease ended. `action` says which: it begins the text
 * of the basic cause.
 */
export async function laneCauses(
  context: ExplainContext,
  subject: Subject,
  graceMs: number,
  action: string,
): Promise<Cause[]> {
  const { lane, nowMs, record } = subject;
  if (lane === undefined) return [];
  const state = await readLane(context, subject, lane);
  const sinceMs = eligibleSince(subject);
  const waitedMs = sinceMs === undefined ? undefined : nowMs - sinceMs;
  const isOverdue = waitedMs === undefined || waitedMs > graceMs;
  const isServed = state.liveLeases > 0;
  const queued = await readyBacklog(context, lane);
  const facts = describeLane(state, queued);
  const waited = waitedMs === undefined ? "" : ` for ${duration(waitedMs)}`;
  const involved = { lanes: [lane] };
  const next = [sluice("lanes")];
  const causes: Cause[] = [];
  if (!isServed && isOverdue) {
    causes.push(
      cause(
        "lane_without_worker",
        `${action}${waited}, and no worker serves lane ${lane}: none holds a lease. ${facts} Start a worker for the lane, ` +
          "or look at the errors of the one that should serve it.",
        { involved, next: [...next, sluice("doctor")] },
      ),
    );
  } else if (state.ahead > 0 && isOverdue) {
    causes.push(
      cause(
        "lane_backlog",
        `${action}${waited} behind ${plural(state.ahead, "execution")} of its partition. ${facts} Add workers, or give it a higher ` +
          "priority.",
        {
          count: state.ahead,
          involved,
          next: [...next, `${sluice("prioritize", subject.keys.id)} --priority 9000 --dry-run`],
        },
      ),
    );
  } else {
    causes.push(cause("waiting_for_worker", `${action}${waited}. ${facts}`, { involved, next }));
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
        { involved, next: reconcile(subject, "ready") },
      ),
    );
  }
  if (record.required_capabilities !== "") causes.push(capabilityCause(subject));
  return causes;
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

/** Since when it can be claimed: a root that a submission released has a time in the future, and the submission's end counts. */
function eligibleSince({ record, flow, nowMs }: Subject): number | undefined {
  const times = [
    record.last_transition_at,
    flow?.core[SUBMISSION_FIELDS.completedAt] ?? "",
    record.created_at,
  ];
  return times.map(parseTime).find((time) => time !== undefined && time <= nowMs);
}

async function readLane(context: ExplainContext, subject: Subject, lane: LaneId): Promise<LaneState> {
  const { router } = context;
  const { keys, nowMs } = subject;
  const own = router.indexKeys(keys.partition).lane(lane);
  const partitions = [...new Set([...router.partitions, keys.partition])];
  const replies = await readAll(context, [
    command(keys.partition, "zscore", own.eligible, keys.id),
    ...partitions.flatMap((partition) => {
      const { eligible, active } = router.indexKeys(partition).lane(lane);
      return [command(partition, "zcard", eligible), command(partition, "zcard", active)];
    }),
  ]);
  const [score, ...counts] = replies;
  let [eligible, active] = [0, 0];
  const busy = partitions.filter((_, position) => {
    const [waiting, running] = counts.slice(2 * position, 2 * position + 2);
    eligible += Number(waiting);
    active += Number(running);
    return Number(running) > 0;
  });
  const sample = await readAll(
    context,
    busy.slice(0, MAX_LEASES).map((partition) =>
      // The newest: their leases were taken last.
      command(
        partition,
        "zrevrange",
        router.indexKeys(partition).lane(lane).active,
        0,
        LEASES_PER_PARTITION - 1,
      ),
    ),
  );
  const ids = sample.flatMap(textsOf).flatMap((text): ExecutionId[] => {
    const id = parseExecutionId(text);
    return id.ok && id.value !== keys.id ? [id.value] : [];
  });
  // A lower score is claimed first.
  const [ahead] =
    score === null
      ? [0]
      : await readAll(context, [
          command(keys.partition, "zcount", own.eligible, "-inf", `(${fieldText(score)}`),
        ]);
  return {
    eligible,
    active,
    liveLeases: await countLive(context, ids.slice(0, MAX_LEASES), nowMs),
    ahead: Number(ahead),
  };
}

const LEASE_FIELDS = ["ownership_state", "lease_expires_at"] as const;

async function countLive(
  context: ExplainContext,
  ids: readonly ExecutionId[],
  nowMs: number,
): Promise<number> {
  const replies = await readAll(
    context,
    ids.map((id) => {
      const { partition, core } = context.router.execKeys(id);
      return hashRead(partition, core, LEASE_FIELDS);
    }),
  );
  return replies.filter((reply) => {
    const lease = hashOf(LEASE_FIELDS, reply);
    return lease.ownership_state === "leased" && Number(lease.lease_expires_at) > nowMs;
  }).length;
}

async function readyBacklog({ sqs, queues }: ExplainContext, lane: LaneId): Promise<number | undefined> {
  const url = queues.ready.get(lane);
  if (url === undefined) return undefined;
  try {
    return await new SqsBacklog(sqs, url).count();
  } catch (error) {
    // The count only completes the text.
    if (error instanceof QueueError) return undefined;
    throw error;
  }
}

function describeLane(state: LaneState, queued: number | undefined): string {
  const { eligible, active, liveLeases } = state;
  return [
    `The lane has ${plural(eligible, "execution")} that can be claimed and ${plural(active, "active one")}` +
      `${active === 0 ? "" : liveLeases === 0 ? ", none with a lease that lasts" : ""}`,
    ...(queued === undefined ? [] : [`its ready queue holds ${plural(queued, "message")}`]),
  ]
    .join("; ")
    .concat(".");
}
