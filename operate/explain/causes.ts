/** Every cause that `explain` can name. docs/explain.md lists them in the same order, which a test compares. */

import { z } from "zod";

/**
 * `info`: the execution waits or has ended as designed. `warning`: slow, or it needs attention if it lasts. `problem`:
 * something is wrong.
 */
export const SEVERITIES = ["info", "warning", "problem"] as const;
export type Severity = (typeof SEVERITIES)[number];

const info = "info";
const warning = "warning";
const problem = "problem";

/** The severity of each cause, by its code. Codes are stable: scripts and alarms may compare them. */
export const CAUSES = {
  // The execution is not there.
  execution_not_found: problem,
  execution_purged: problem,
  execution_elsewhere: problem,
  // The deployment.
  partition_count_mismatch: problem,
  partition_out_of_range: problem,
  flow_in_other_partition: warning,
  library_missing: problem,
  library_mismatch: problem,
  // The flow.
  flow_missing: problem,
  not_a_member: problem,
  submission_running: info,
  submission_incomplete: problem,
  flow_cancelled: warning,
  flow_being_purged: warning,
  // Dependencies.
  upstream_not_ended: info,
  completion_in_flight: info,
  completion_missing: problem,
  completion_dead_lettered: problem,
  dispatch_behind: warning,
  depth_limit_reached: problem,
  edge_not_applied: problem,
  edge_not_staged: problem,
  upstream_purged: problem,
  upstream_invalid: problem,
  dependency_invalid: problem,
  group_undecided: info,
  not_released: problem,
  not_skipped: problem,
  // Time.
  delay_not_over: info,
  retry_waiting: info,
  delay_overdue: problem,
  timeout_overdue: problem,
  // Workers.
  waiting_for_worker: info,
  claim_granted: info,
  lane_backlog: warning,
  lane_paused: warning,
  lane_without_worker: problem,
  not_announced: warning,
  capabilities_required: warning,
  blocked_for_admission: warning,
  suspended: info,
  running: info,
  lease_expired: problem,
  lease_revoked: warning,
  // It has ended.
  succeeded: info,
  failed: problem,
  cancelled: warning,
  expired: problem,
  skipped: problem,
  children_not_updated: problem,
  // The record itself.
  record_invalid: problem,
  index_mismatch: problem,
  reading_incomplete: warning,
} as const satisfies Readonly<Record<string, Severity>>;

export type CauseCode = keyof typeof CAUSES;
const CAUSE_CODES = Object.keys(CAUSES) as CauseCode[];

/** Ids named with a cause: the first ones, if many are alike. */
const MAX_INVOLVED = 10;

const ids = (what: string): z.ZodOptional<z.ZodArray<z.ZodString>> =>
  z.array(z.string()).max(MAX_INVOLVED).optional().describe(`The first ${MAX_INVOLVED} ${what}`);

const involvedSchema = z.object({
  executions: ids("executions"),
  edges: ids("edges, in the order of the executions where a cause is about upstreams"),
  flows: ids("flows"),
  lanes: ids("lanes"),
  messages: ids("messages of the dead-letter queue, by their SQS ids"),
});

export const causeSchema = z.object({
  code: z.enum(CAUSE_CODES).describe("A stable name: docs/explain.md lists all of them"),
  severity: z
    .enum(SEVERITIES)
    .describe(
      "info: as designed. warning: slow, or it needs attention if it lasts. problem: something is wrong",
    ),
  text: z.string().describe("The cause in words"),
  count: z
    .number()
    .describe("How many edges, messages or entries have this cause; 1 if it is about the execution"),
  involved: involvedSchema,
  next: z.array(z.string()).describe("Command lines that show more or repair it, the safest first"),
});

export type Cause = z.infer<typeof causeSchema>;
export type Involved = Readonly<Partial<Record<keyof z.infer<typeof involvedSchema>, readonly string[]>>>;

export interface CauseDetails {
  readonly count?: number;
  readonly involved?: Involved;
  readonly next?: readonly string[];
}

/** Makes a cause. Long lists of ids are cut: `count` has their number. */
export function cause(code: CauseCode, text: string, details: CauseDetails = {}): Cause {
  const { count = 1, involved = {}, next = [] } = details;
  const named = Object.entries(involved).filter(([, list]) => list.length > 0);
  return {
    code,
    severity: CAUSES[code],
    text,
    count,
    involved: Object.fromEntries(named.map(([kind, list]) => [kind, list.slice(0, MAX_INVOLVED)])),
    next: [...next],
  };
}

/** The most severe causes first, and otherwise in the order of `CAUSES`. */
export function sortCauses(causes: readonly Cause[]): Cause[] {
  const rank = ({ code, severity }: Cause): number =>
    (SEVERITIES.length - SEVERITIES.indexOf(severity)) * CAUSE_CODES.length + CAUSE_CODES.indexOf(code);
  return causes.toSorted((left, right) => rank(left) - rank(right));
}
