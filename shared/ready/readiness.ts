/** Whether an execution can be claimed now, and which of its eligibilities that is. */

import { command, type ValkeyCommand } from "#shared/contract/command.ts";
import { type LaneId, parseLaneId } from "#shared/contract/ids.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { fieldText } from "#shared/contract/record.ts";
import { eligibilityOf } from "#shared/ready/marks.ts";

/** How a worker can be told of an execution. */
export interface Readiness {
  readonly lane: LaneId;
  /** The record's `execution_kind`. */
  readonly kind: string;
  /** Which eligibility of the execution this is (`eligibilityOf`). */
  readonly eligibility: string;
}

const FIELDS = [
  "lifecycle_phase",
  "ownership_state",
  "eligibility_state",
  "lane_id",
  "execution_kind",
  "replay_count",
  "total_attempt_count",
] as const;

/** Reads what `parseReadiness` needs. */
export function readReadiness({ partition, core }: ExecKeys): ValkeyCommand {
  return command(partition, "hmget", core, ...FIELDS);
}

/** Returns undefined if no worker can claim the execution now: it has no record, waits, runs or has ended. */
export function parseReadiness(value: unknown): Readiness | undefined {
  const fields = Array.isArray(value) ? value.map(fieldText) : [];
  const [
    phase = "",
    ownership = "",
    eligibility = "",
    laneText = "",
    kind = "",
    replays = "",
    attempts = "",
  ] = fields;
  const isEligible = phase === "runnable" && ownership === "unowned" && eligibility === "eligible_now";
  const isReclaimable =
    phase === "active" && (ownership === "lease_expired_reclaimable" || ownership === "lease_revoked");
  if (!isEligible && !isReclaimable) return undefined;
  const lane = parseLaneId(laneText);
  return lane.ok ? { lane: lane.value, kind, eligibility: eligibilityOf(replays, attempts) } : undefined;
}
