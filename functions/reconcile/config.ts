import { type LaneId, parseLaneId } from "#shared/contract/ids.ts";
import {
  type Environment,
  isSet,
  readConfiguration,
  readInteger,
  readQueueUrl,
} from "#shared/runtime/environment.ts";
import { readValkeyConfig, type ValkeyConfig } from "#shared/valkey/config.ts";

/** The configuration of the reconcile function, from its environment variables. */
export interface ReconcileConfig extends ValkeyConfig {
  readonly completionsQueueUrl: string;
  /** Lanes to sweep in addition to those that the deployment records. */
  readonly lanes: readonly LaneId[];
  /** Milliseconds after the end of an upstream during which dispatch may still process its completion. */
  readonly graceMs: number;
}

const DEFAULT_LANES = "default";
const DEFAULT_GRACE_SECONDS = 30;
const MAX_GRACE_SECONDS = 86_400;

/** Reads the configuration. Throws one ConfigurationError that lists every invalid variable. */
export function readReconcileConfig(env: Environment): ReconcileConfig {
  return readConfiguration(env, (errors) => {
    const graceSeconds = readInteger(
      env,
      "RECONCILE_GRACE_SECONDS",
      0,
      MAX_GRACE_SECONDS,
      DEFAULT_GRACE_SECONDS,
      errors,
    );
    return {
      ...readValkeyConfig(env, errors),
      completionsQueueUrl: readQueueUrl(env, "COMPLETIONS_QUEUE_URL", errors),
      lanes: readLanes(env, errors),
      graceMs: graceSeconds * 1_000,
    };
  });
}

/** A lane whose name contains a comma, or starts or ends with a space, can only be swept if the deployment records it. */
function readLanes(env: Environment, errors: string[]): LaneId[] {
  const lanes = new Set<LaneId>();
  for (const text of (isSet(env, "LANES") ? (env.LANES ?? "") : DEFAULT_LANES).split(",")) {
    const lane = parseLaneId(text.trim());
    if (lane.ok) lanes.add(lane.value);
    else errors.push(`LANES must be a comma-separated list of lanes: ${lane.error.message}`);
  }
  return [...lanes];
}
