import { z } from "zod";
import { type KnownLanes, readKnownLanes } from "#operate/lanes/known-lanes.ts";
import { readAll } from "#operate/lanes/read-all.ts";
import {
  type ExpiredLeases,
  type LaneCounts,
  readExpiredLeases,
  readLane,
} from "#operate/lanes/read-lane.ts";
import { type OperateContext, readOperation } from "#operate/operation.ts";
import { command } from "#shared/contract/command.ts";
import { type LaneId, type Partition, parseLaneId } from "#shared/contract/ids.ts";
import { messageOf } from "#shared/errors.ts";
import { readQueueCounts } from "#shared/queue/backlog.ts";
import { serverTimeMs } from "#shared/valkey/server-time.ts";

/** Each lane is some thousand reads. */
const MAX_PAGE = 50;
/** An execution that waits for longer in a lane in which nothing happens is waiting for a worker. Milliseconds. */
const UNSERVED_AFTER_MS = 60_000;

const LANE_STATES = ["paused", "idle", "served", "not_served"] as const;

const laneName = z.string().superRefine((text, check) => {
  const parsed = parseLaneId(text);
  if (!parsed.ok) check.addIssue({ code: "custom", message: parsed.error.message });
});

const laneReport = z.object({
  lane: z.string(),
  state: z
    .enum(LANE_STATES)
    .describe(
      "paused: by an operator. idle: nothing can be claimed. served: a lease is running, or there was a claim within the last " +
        "minute, or nothing has waited for a minute yet. not_served: executions wait, and none of that holds",
    ),
  paused: z
    .object({ paused_at: z.number().optional(), actor: z.string(), reason: z.string() })
    .optional()
    .describe("Missing unless the lane is paused"),
  eligible: z.number().describe("Executions that a worker can claim now"),
  oldest_eligible: z
    .object({ execution_id: z.string(), eligible_at: z.number() })
    .optional()
    .describe(
      "The one that waits for the longest time, of those that are claimed next: the first of each partition and priority",
    ),
  delayed: z.number().describe("Retries that wait for their backoff, and executions with a start time"),
  delayed_due: z.number().describe("Of these, those whose time has come: the reconciler makes them eligible"),
  next_due_at: z.number().optional(),
  blocked: z.number().describe("Executions that wait for dependencies"),
  blocked_otherwise: z
    .number()
    .describe("Blocked by a budget, a quota, a capability or an operator of FlowFabric"),
  suspended: z.number(),
  active: z.number().describe("Claimed executions, those with expired leases included"),
  expired_leases: z
    .number()
    .describe("Leases that ran out and were not reclaimed yet. At most 1,000 of each partition are counted"),
  last_claim_at: z
    .number()
    .optional()
    .describe(
      "When an execution was last claimed or reclaimed. Sluice's library records it in the call that takes the lease; missing if " +
        "there was none, or with another library",
    ),
  ready_queue: z
    .object({
      visible: z.number(),
      in_flight: z.number().describe("With a worker, or put back for a later time"),
      delayed: z.number(),
    })
    .optional()
    .describe(
      "Messages in the lane's ready queue, as SQS counts them. Missing if READY_QUEUES does not name one",
    ),
  ready_queue_error: z.string().optional().describe("Why the queue could not be read"),
});

export type LaneReport = z.infer<typeof laneReport>;

/** Shows what waits in each lane, what runs, and which lanes no worker serves. */
export const lanes = readOperation({
  name: "lanes",
  input: z.strictObject({
    lanes: z.array(laneName).max(MAX_PAGE).optional().describe("Only these lanes"),
    limit: z.int().min(1).max(MAX_PAGE).default(MAX_PAGE),
    cursor: laneName.optional(),
  }),
  output: z.object({
    read_at: z.number().describe("Milliseconds since the epoch, by the clock of Valkey"),
    lanes: z.array(laneReport).describe("In order of their names"),
    next: z.string().optional().describe("The cursor of the next page. Missing on the last page"),
  }),
  async run(context, { lanes: wanted, limit, cursor }) {
    const { valkey, router } = context;
    const [known, [time]] = await Promise.all([
      readKnownLanes(context),
      readAll(valkey, [command(router.partitions[0] ?? (0 as Partition), "time")]),
    ]);
    const nowMs = serverTimeMs(time);
    const expired = await readExpiredLeases(context, nowMs);
    const names = wanted === undefined ? known.names : [...new Set(wanted as LaneId[])].sort();
    const page = names.filter((name) => cursor === undefined || name > cursor);
    const reports: LaneReport[] = [];
    for (const lane of page.slice(0, limit)) {
      const counts = await readLane(context, lane, nowMs);
      reports.push({
        ...describe(lane, counts, known, expired.get(lane), nowMs),
        ...(await readQueue(context, lane)),
      });
    }
    return {
      read_at: nowMs,
      lanes: reports,
      ...(page.length > limit ? { next: reports.at(-1)?.lane ?? "" } : {}),
    };
  },
});

function describe(
  lane: LaneId,
  counts: LaneCounts,
  { pauses, claims }: KnownLanes,
  expired: ExpiredLeases | undefined,
  nowMs: number,
): LaneReport {
  const pause = pauses.get(lane);
  const claimedMs = claims.get(lane);
  const { oldest, nextDueMs } = counts;
  const isWaiting = counts.eligible > 0 || expired !== undefined;
  const waitsSinceMs = Math.min(oldest?.sinceMs ?? nowMs, expired?.sinceMs ?? nowMs);
  const isServed =
    counts.active > (expired?.count ?? 0) ||
    nowMs - Math.max(claimedMs ?? 0, waitsSinceMs) < UNSERVED_AFTER_MS;
  return {
    lane,
    state: pause !== undefined ? "paused" : !isWaiting ? "idle" : isServed ? "served" : "not_served",
    ...(pause === undefined
      ? {}
      : {
          paused: {
            ...(pause.pausedAtMs === undefined ? {} : { paused_at: pause.pausedAtMs }),
            actor: pause.actor,
            reason: pause.reason,
          },
        }),
    eligible: counts.eligible,
    ...(oldest === undefined
      ? {}
      : { oldest_eligible: { execution_id: oldest.id, eligible_at: oldest.sinceMs } }),
    delayed: counts.delayed,
    delayed_due: counts.delayedDue,
    ...(nextDueMs === undefined ? {} : { next_due_at: nextDueMs }),
    blocked: counts.blocked,
    blocked_otherwise: counts.blockedOtherwise,
    suspended: counts.suspended,
    active: counts.active,
    expired_leases: expired?.count ?? 0,
    ...(claimedMs === undefined ? {} : { last_claim_at: claimedMs }),
  };
}

async function readQueue(
  { sqs, queues }: OperateContext,
  lane: LaneId,
): Promise<Pick<LaneReport, "ready_queue" | "ready_queue_error">> {
  const url = queues.ready.get(lane);
  if (url === undefined) return {};
  try {
    const { visible, inFlight, delayed } = await readQueueCounts(sqs, url);
    return { ready_queue: { visible, in_flight: inFlight, delayed } };
  } catch (error) {
    // The counts of Valkey are worth showing without those of the queue.
    return { ready_queue_error: messageOf(error) };
  }
}
