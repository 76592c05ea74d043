/** Settings of a sweep, from environment variables. */

import { type LaneId, parseLaneId } from "#shared/contract/ids.ts";
import { type Environment, isSet, readInteger } from "#shared/runtime/environment.ts";

const DEFAULT_LANES = "default";
const DEFAULT_RETENTION_HOURS = 168;
const MAX_RETENTION_HOURS = 87_600;
const HOUR_MS = 3_600_000;

/**
 * Reads `LANES`: lanes to sweep in addition to those that the deployment records. A lane whose name contains a comma, or starts or
 * ends with a space, can only be swept if the deployment records it.
 */
export function readLanes(env: Environment, errors: string[]): LaneId[] {
  const lanes = new Set<LaneId>();
  for (const text of (isSet(env, "LANES") ? (env.LANES ?? "") : DEFAULT_LANES).split(",")) {
    const lane = parseLaneId(text.trim());
    if (lane.ok) lanes.add(lane.value);
    else errors.push(`LANES must be a comma-separated list of lanes: ${lane.error.message}`);
  }
  return [...lanes];
}

/** Reads `RETENTION_HOURS`: how long ended flows and executions are kept. Returns milliseconds; 0: for ever. */
export function readRetentionMs(env: Environment, errors: string[]): number {
  return (
    HOUR_MS * readInteger(env, "RETENTION_HOURS", 0, MAX_RETENTION_HOURS, DEFAULT_RETENTION_HOURS, errors)
  );
}
