import { z } from "zod";
import type { Subject } from "#operate/explain/subject.ts";
import { parseTime } from "#shared/contract/record.ts";
import { SUBMISSION_FIELDS } from "#shared/contract/submission.ts";

const time = (what: string): z.ZodOptional<z.ZodNumber> => z.number().optional().describe(what);

/** What the record of an execution says, for a person. */
export const recordSchema = z.object({
  task: z.string().describe("Its task in the workflow. Empty: not known"),
  kind: z.string(),
  lane: z.string(),
  priority: z.number(),
  flow_id: z.string().describe("Empty: in no flow"),
  flow_name: z.string(),
  flow_state: z.string().describe("open or cancelled"),
  public_state: z.string(),
  lifecycle_phase: z.string(),
  ownership_state: z.string(),
  eligibility_state: z.string(),
  terminal_outcome: z.string(),
  attempts: z.number(),
  retries: z.number(),
  replays: z.number(),
  reclaims: z.number().describe("How often a worker took it over after a lease had ended"),
  worker: z.string().describe("The instance that holds the lease, or held it last. Empty: none"),
  failure_reason: z.string(),
  created_at: time("Milliseconds since the epoch, as all times"),
  changed_at: time("Its last transition"),
  started_at: time("Its first claim"),
  ended_at: time("Its end"),
  delayed_until: time("Until when it is delayed"),
  lease_expires_at: time("When its lease ends unless it is renewed"),
  group: z
    .object({
      policy: z.string().describe("all_of, any_of or quorum"),
      needed: z.number().describe("Successes that it needs"),
      edges: z.number(),
      succeeded: z.number(),
      failed: z.number(),
      skipped: z.number(),
      state: z.string().describe("pending, satisfied or impossible"),
    })
    .optional()
    .describe("Its group of edges. Missing if it needs all of them"),
});

type RecordSummary = z.infer<typeof recordSchema>;

export function describeRecord(subject: Subject): RecordSummary {
  const { record, flow, task } = subject;
  return {
    task,
    kind: record.execution_kind,
    lane: record.lane_id,
    priority: Number(record.priority) || 0,
    flow_id: record.flow_id,
    flow_name: flow?.core[SUBMISSION_FIELDS.name] ?? "",
    flow_state: flow?.core.public_flow_state ?? "",
    public_state: record.public_state,
    lifecycle_phase: record.lifecycle_phase,
    ownership_state: record.ownership_state,
    eligibility_state: record.eligibility_state,
    terminal_outcome: record.terminal_outcome,
    attempts: Number(record.total_attempt_count) || 0,
    retries: Number(record.retry_count) || 0,
    replays: Number(record.replay_count) || 0,
    reclaims: Number(record.lease_reclaim_count) || 0,
    worker: record.current_worker_instance_id,
    failure_reason: record.failure_reason,
    ...times({
      created_at: record.created_at,
      changed_at: record.last_transition_at,
      started_at: record.started_at,
      ended_at: record.completed_at,
      delayed_until: record.delay_until,
      lease_expires_at: record.lease_expires_at,
    }),
    ...groupOf(subject),
  };
}

type TimeName =
  | "created_at"
  | "changed_at"
  | "started_at"
  | "ended_at"
  | "delayed_until"
  | "lease_expires_at";

function times(texts: Readonly<Record<TimeName, string>>): Partial<Record<TimeName, number>> {
  return Object.fromEntries(
    Object.entries(texts).flatMap(([name, text]) => {
      const ms = parseTime(text);
      return ms === undefined ? [] : [[name, ms]];
    }),
  );
}

function groupOf({ flow }: Subject): Pick<RecordSummary, "group"> {
  const group = flow?.group;
  if (group === undefined || group.policy_variant === "") return {};
  const edges = Number(group.n) || 0;
  const needed = { any_of: 1, quorum: Number(group.k) || 0 }[group.policy_variant] ?? edges;
  return {
    group: {
      policy: group.policy_variant,
      needed,
      edges,
      succeeded: Number(group.succeeded) || 0,
      failed: Number(group.failed) || 0,
      skipped: Number(group.skipped) || 0,
      state: group.group_state,
    },
  };
}
