/** Whether an execution can be claimed now, and which of its eligibilities that is. */

import { command, type ValkeyCommand } from "#shared/contract/command.ts";
import { type LaneId, parseLaneId } from "#shared/contract/ids.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { fieldText, parseTime } from "#shared/contract/record.ts";
import { eligibilityOf } from "#shared/ready/marks.ts";
import { MAX_DELAY_SECONDS } from "#shared/ready/message.ts";

/** What a ready message says of an execution. */
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

/** Reads what `parseReadiness` needs, and further fields of the record (`furtherFields`). */
export function readReadiness({ partition, core }: ExecKeys, ...further: readonly string[]): ValkeyCommand {
  return command(partition, "hmget", core, ...FIELDS, ...further);
}

/** The values of the further fields that were read, in their order. */
export function furtherFields(value: unknown): string[] {
  return Array.isArray(value) ? value.slice(FIELDS.length).map(fieldText) : [];
}

/** Returns undefined if no worker can claim the execution now: it has no record, waits, runs or has ended. */
export function parseReadiness(value: unknown): Readiness | undefined {
  const { phase, ownership, eligibility, ...named } = fieldsOf(value);
  const isEligible = phase === "runnable" && ownership === "unowned" && eligibility === "eligible_now";
  const isReclaimable =
    phase === "active" && (ownership === "lease_expired_reclaimable" || ownership === "lease_revoked");
  return isEligible || isReclaimable ? readinessOf(named) : undefined;
}

/** Reads what `parseAnnounceable` needs. */
export function readAnnounceable(keys: ExecKeys): ValkeyCommand {
  return readReadiness(keys, "delay_until");
}

/**
 * As `parseReadiness`, and also returns an execution whose delay ends soon enough for a delayed message. `nowMs` is the
 * server's time, in milliseconds since the epoch.
 */
export function parseAnnounceable(
  value: unknown,
  nowMs: number,
): (Readiness & { readonly delaySeconds: number }) | undefined {
  const now = parseReadiness(value);
  if (now !== undefined) return { ...now, delaySeconds: 0 };
  const { phase, ownership, eligibility, ...named } = fieldsOf(value);
  if (phase !== "runnable" || ownership !== "unowned" || eligibility !== "not_eligible_until_time") {
    return undefined;
  }
  const untilMs = parseTime(furtherFields(value)[0] ?? "");
  const readiness = readinessOf(named);
  if (untilMs === undefined || readiness === undefined) return undefined;
  // Rounded up: a message that is early finds that the time has not come.
  const delaySeconds = Math.max(0, Math.ceil((untilMs - nowMs) / 1_000));
  return delaySeconds > MAX_DELAY_SECONDS ? undefined : { ...readiness, delaySeconds };
}

function fieldsOf(value: unknown) {
  const fields = Array.isArray(value) ? value.map(fieldText) : [];
  const [phase = "", ownership = "", eligibility = "", lane = "", kind = "", replays = "", attempts = ""] =
    fields;
  return { phase, ownership, eligibility, lane, kind, replays, attempts };
}

interface NamedFields {
  readonly lane: string;
  readonly kind: string;
  readonly replays: string;
  readonly attempts: string;
}

function readinessOf({ lane: laneText, kind, replays, attempts }: NamedFields): Readiness | undefined {
  const lane = parseLaneId(laneText);
  if (!lane.ok) return undefined;
  return { lane: lane.value, kind, eligibility: eligibilityOf(replays, attempts) };
}
