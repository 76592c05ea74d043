/** Which index entries the record of an execution requires and allows (contract, sections 3, 4, 10 and 11). Does no I/O. */

import { type ExecutionId, type LaneId, parseLaneId, partitionOf } from "#shared/contract/ids.ts";
import { IndexKeys, type LaneKeys } from "#shared/contract/keys.ts";

/** The fields of a record that decide where the execution is indexed. */
export const RECORD_FIELDS = [
  "execution_id",
  "lane_id",
  "lifecycle_phase",
  "ownership_state",
  "eligibility_state",
  "terminal_outcome",
  "public_state",
  "created_at",
  "completed_at",
  "delay_until",
  "priority",
  "flow_id",
  "current_attempt_id",
  "current_lease_id",
  "current_lease_epoch",
  "current_worker_id",
  "current_worker_instance_id",
  "lease_expires_at",
  "last_mutation_at",
] as const;

export type ExecutionRecord = Readonly<Record<(typeof RECORD_FIELDS)[number], string>>;

/** Returns a record from the values of `RECORD_FIELDS`; undefined if it has no id, so that it is no record. */
export function recordOf(values: readonly string[]): ExecutionRecord | undefined {
  const record = Object.fromEntries(RECORD_FIELDS.map((name, position) => [name, values[position] ?? ""]));
  return record.execution_id === "" ? undefined : (record as ExecutionRecord);
}

export interface Entry {
  readonly key: string;
  /** Undefined: any score, or an entry of a set. */
  readonly score?: number;
  readonly type: "set" | "zset";
}

export type ExpectedEntries =
  | { readonly ok: true; readonly required: readonly Entry[]; readonly allowed: ReadonlySet<string> }
  /** The record has a state without a place in the indexes. */
  | { readonly ok: false; readonly reason: string };

const MAX_PRIORITY = 9_000;
const PRIORITY_WEIGHT = 1e12;

/** The index of a runnable execution, by its eligibility. */
const RUNNABLE: Readonly<Record<string, keyof LaneKeys>> = {
  eligible_now: "eligible",
  not_eligible_until_time: "delayed",
  blocked_by_dependencies: "blockedDependencies",
  blocked_by_budget: "blockedBudget",
  blocked_by_quota: "blockedQuota",
  blocked_by_route: "blockedRoute",
  blocked_by_operator: "blockedOperator",
};

/** Returns the entries of an execution by its record. */
export function expectedEntries(id: ExecutionId, record: ExecutionRecord): ExpectedEntries {
  const lane = parseLaneId(record.lane_id);
  if (!lane.ok) return { ok: false, reason: lane.error.message };
  const index = new IndexKeys(partitionOf(id));
  const entries = entriesByPhase(index, lane.value, record);
  if (entries === undefined) {
    return {
      ok: false,
      reason: `phase ${record.lifecycle_phase}, ownership ${record.ownership_state}, eligibility ${record.eligibility_state}`,
    };
  }
  const required: Entry[] = [{ key: index.allExecutions, type: "set" }, ...entries.required];
  return {
    ok: true,
    required,
    allowed: new Set([...required.map(({ key }) => key), ...(entries.optional ?? [])]),
  };
}

interface PhaseEntries {
  readonly required: readonly Entry[];
  /** Entries that the record neither requires nor rules out. */
  readonly optional?: readonly string[];
}

function entriesByPhase(index: IndexKeys, lane: LaneId, record: ExecutionRecord): PhaseEntries | undefined {
  const keys = index.lane(lane);
  switch (record.lifecycle_phase) {
    case "runnable":
      return runnableEntries(index, keys, record);
    case "active":
      return activeEntries(index, keys, record);
    case "suspended":
      return {
        required: [{ key: keys.suspended, type: "zset" }],
        optional: [index.suspensionTimeout, index.executionDeadline],
      };
    case "terminal":
      return { required: [zset(keys.terminal, Number(record.completed_at))] };
    default:
      return undefined;
  }
}

function runnableEntries(
  index: IndexKeys,
  keys: LaneKeys,
  record: ExecutionRecord,
): PhaseEntries | undefined {
  const optional = [index.executionDeadline];
  if (record.eligibility_state === "blocked_by_lane_state") {
    // The caller of ff_block_execution_for_admission chooses one of these (contract, section 15).
    const blocked = [keys.blockedBudget, keys.blockedQuota, keys.blockedRoute, keys.blockedOperator];
    return { required: [], optional: [...optional, ...blocked] };
  }
  const name = RUNNABLE[record.eligibility_state];
  if (name === undefined) return undefined;
  return { required: [{ key: keys[name], type: "zset", ...scoreOf(name, record) }], optional };
}

function scoreOf(name: keyof LaneKeys, record: ExecutionRecord): { score?: number } {
  const createdAt = Number(record.created_at);
  switch (name) {
    case "eligible":
      return { score: createdAt - clampedPriority(record.priority) * PRIORITY_WEIGHT };
    case "delayed":
      return { score: Number(record.delay_until) };
    case "blockedDependencies":
      return { score: createdAt };
    // An execution that is blocked for admission is scored by the time of the call, which no field keeps.
    default:
      return {};
  }
}

function clampedPriority(text: string): number {
  const priority = Math.floor(Number(text));
  return Number.isNaN(priority) ? 0 : Math.min(MAX_PRIORITY, Math.max(0, priority));
}

/**
 * A lease that ran out keeps all its entries, marked or not: a worker that reclaims the execution finds it through them.
 * A revoked lease keeps only the one in `active`.
 */
function activeEntries(index: IndexKeys, keys: LaneKeys, record: ExecutionRecord): PhaseEntries | undefined {
  const optional = [index.attemptTimeout, index.executionDeadline];
  const expiresAt = Number(record.lease_expires_at);
  // Any score: it is the expiry at the claim, which a renewal does not move and no field keeps.
  const active: Entry = { key: keys.active, type: "zset" };
  switch (record.ownership_state) {
    case "leased":
    case "lease_expired_reclaimable":
      return {
        required: [
          active,
          zset(index.leaseExpiry, expiresAt),
          { key: index.workerLeases(record.current_worker_instance_id), type: "set" },
        ],
        optional,
      };
    case "lease_revoked":
      return { required: [active], optional };
    default:
      return undefined;
  }
}

function zset(key: string, score: number): Entry {
  return { key, score, type: "zset" };
}
