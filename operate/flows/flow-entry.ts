/** What an operator sees of a flow: its name, its state, how its members stand, and whether it is stuck. */

import { z } from "zod";
import { type MemberCounts, type MemberSummary, noMembers, type SizedFlow } from "#operate/flows/members.ts";
import { FLOW_STATES, type FlowState } from "#operate/flows/search-script.ts";
import { textsOf } from "#shared/consistency/read.ts";
import { command, type ValkeyCommand } from "#shared/contract/command.ts";
import type { FlowKeys, IndexKeys } from "#shared/contract/keys.ts";
import { fieldText, PUBLIC_STATES, parseTime } from "#shared/contract/record.ts";
import { SUBMISSION_FIELDS } from "#shared/contract/submission.ts";

/**
 * A flow in which nothing can move counts as stuck after this time: the reconciler recovers missed events within a minute and a
 * half. Milliseconds.
 */
export const SETTLE_MS = 120_000;
/** A flow that has not changed for this time is stuck, unless an operator says otherwise. Milliseconds. */
export const DEFAULT_UNCHANGED_MS = 3_600_000;

const STUCK_REASONS = ["nothing_can_move", "unchanged", "submission_incomplete"] as const;
export type StuckReason = (typeof STUCK_REASONS)[number];

const count = z.int().min(0);

/** One flow. */
export const flowEntrySchema = z.object({
  flow_id: z.string(),
  name: z.string().optional().describe("The name of the submitted workflow"),
  namespace: z.string(),
  state: z
    .enum(FLOW_STATES)
    .describe("`failed`: all members have ended, and one failed, expired or was cancelled"),
  created_at: z.number(),
  ended_at: z.number().optional().describe("When the last member ended"),
  changed_at: z.number().optional().describe("When a member last changed. Only of a running flow"),
  members: z
    .object({
      total: count,
      ...(Object.fromEntries(PUBLIC_STATES.map((state) => [state, count])) as Record<
        (typeof PUBLIC_STATES)[number],
        typeof count
      >),
      unknown: count.describe("Members without a record"),
    })
    .describe("How many members there are, and how many have each state"),
  stuck: z
    .enum(STUCK_REASONS)
    .optional()
    .describe(
      "`nothing_can_move`: no member is active, eligible or delayed. `unchanged`: no member has changed for long, and none " +
        "waits for a time. `submission_incomplete`: the submission stopped before it released the first tasks",
    ),
});
export type FlowEntry = z.infer<typeof flowEntrySchema>;

const ENDED_STATES = ["completed", "failed", "cancelled", "expired", "skipped"] as const;
const SUMMARY_FIELDS = ["members_open", "total_members", ...ENDED_STATES.map((state) => `members_${state}`)];
const CORE_FIELDS = [
  "flow_id",
  "namespace",
  "created_at",
  "last_mutation_at",
  "public_flow_state",
  SUBMISSION_FIELDS.name,
  SUBMISSION_FIELDS.tasks,
  SUBMISSION_FIELDS.completedAt,
];

/** What the keys of a flow say, without its members. */
export interface FlowRecord extends SizedFlow {
  readonly namespace: string;
  readonly name: string;
  readonly createdAt: number;
  readonly graphChangedAt: number;
  readonly isCancelled: boolean;
  readonly isHalfSubmitted: boolean;
  readonly endedAt: number | undefined;
  /** The counts of Sluice's library. Undefined if the flow has none, or a member is open: then the members tell. */
  readonly endedCounts: MemberCounts | undefined;
}

/** The commands that read a flow. `flowRecordOf` takes their replies. */
export function readFlow(keys: FlowKeys, index: IndexKeys): ValkeyCommand[] {
  const { partition } = keys;
  return [
    command(partition, "hmget", keys.core, ...CORE_FIELDS),
    command(partition, "hmget", keys.summary, ...SUMMARY_FIELDS),
    command(partition, "scard", keys.members),
    command(partition, "zscore", index.flowsEnded, keys.id),
  ];
}

/** Returns a flow from the replies of `readFlow`. Undefined if it does not exist. */
export function flowRecordOf(keys: FlowKeys, replies: readonly unknown[]): FlowRecord | undefined {
  const [core, summary, size, endedAt] = replies;
  const [id, namespace = "", createdAt = "", changedAt = "", state, name = "", tasks, completedAt] =
    textsOf(core);
  if (id === "" || id === undefined) return undefined;
  const [open, total, ...ended] = textsOf(summary);
  const counts = noMembers();
  for (const [position, column] of ENDED_STATES.entries()) counts[column] = Number(ended[position]);
  return {
    keys,
    size: Number(size),
    namespace,
    name,
    createdAt: parseTime(createdAt) ?? 0,
    graphChangedAt: parseTime(changedAt) ?? 0,
    isCancelled: state === "cancelled",
    isHalfSubmitted: tasks !== "" && completedAt === "",
    endedAt: parseTime(fieldText(endedAt)),
    endedCounts: open === "0" && Number(total) > 0 && Number(total) === Number(size) ? counts : undefined,
  };
}

/** Returns the entry of a flow. `members` is needed unless the record has `endedCounts`. */
export function flowEntry(
  flow: FlowRecord,
  members: MemberSummary | undefined,
  { nowMs, unchangedMs }: { readonly nowMs: number; readonly unchangedMs: number },
): FlowEntry {
  const counts = flow.endedCounts ?? members?.counts ?? noMembers();
  const state = stateOf(flow, counts);
  const isRunning = state === "running";
  const stuck =
    isRunning && members !== undefined ? stuckReason(flow, members, nowMs, unchangedMs) : undefined;
  const changedAt = Math.max(members?.changedAt ?? 0, flow.graphChangedAt);
  return {
    flow_id: flow.keys.id,
    ...(flow.name === "" ? {} : { name: flow.name }),
    namespace: flow.namespace,
    state,
    created_at: flow.createdAt,
    ...(flow.endedAt === undefined ? {} : { ended_at: flow.endedAt }),
    ...(isRunning ? { changed_at: changedAt } : {}),
    members: { total: flow.size, ...counts },
    ...(stuck === undefined ? {} : { stuck }),
  };
}

function stateOf({ isCancelled, size }: FlowRecord, counts: MemberCounts): FlowState {
  if (isCancelled) return "cancelled";
  const unsuccessful = counts.failed + counts.cancelled + counts.expired;
  const ended = counts.completed + counts.skipped + unsuccessful + counts.unknown;
  if (size === 0 || ended < size) return "running";
  return unsuccessful > 0 ? "failed" : "completed";
}

function stuckReason(
  { createdAt, graphChangedAt, isHalfSubmitted, size }: FlowRecord,
  { counts, changedAt, isSleeping }: MemberSummary,
  nowMs: number,
  unchangedMs: number,
): StuckReason | undefined {
  const quietMs = nowMs - Math.max(createdAt, graphChangedAt, changedAt);
  // Its roots wait for a time that does not come by itself.
  if (isHalfSubmitted) return quietMs >= SETTLE_MS ? "submission_incomplete" : undefined;
  if (size === 0) return undefined;
  const canMove = counts.active + counts.waiting + counts.delayed + counts.rate_limited > 0;
  if (!canMove && quietMs >= SETTLE_MS) return "nothing_can_move";
  return !isSleeping && quietMs >= unchangedMs ? "unchanged" : undefined;
}
