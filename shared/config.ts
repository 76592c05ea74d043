import type { Edition } from "#shared/contract/edition.ts";
import { type Environment, isSet, readChoice, readQueueUrl, readWhole } from "#shared/environment.ts";
import { ConfigurationError } from "#shared/errors.ts";
import { type LaneId, parseLaneId } from "#shared/ids.ts";
import { DEFAULT_PARTITION_CONFIG, type PartitionConfig } from "#shared/partitions.ts";
import type { ValkeyAddress } from "#shared/valkey/client.ts";
import { readValkey } from "#shared/valkey/config.ts";

/** What every function on Valkey needs to know. */
export interface ValkeyConfig {
  readonly valkey: ValkeyAddress;
  readonly partitions: PartitionConfig;
}

/** Where the deployment is: what every function that deals with completions needs to know. */
export interface DeploymentConfig extends ValkeyConfig {
  readonly completionsQueueUrl: string;
}

/** What the dispatch function needs to know, from its environment. */
export interface DispatchConfig extends DeploymentConfig {
  /** Undefined: messages that no retry can help are left to the queue's redrive policy. */
  readonly deadLetterQueueUrl: string | undefined;
  /** Completions deeper than this are acknowledged and not dispatched. */
  readonly maxCascadeDepth: number;
  /** `auto`: ask the library for its version. */
  readonly edition: Edition | "auto";
}

/** What the reconcile function needs to know, from its environment. */
export interface ReconcileConfig extends DeploymentConfig {
  /** Swept besides those that the deployment records. */
  readonly lanes: readonly LaneId[];
  /** Milliseconds for which an upstream must have ended before dispatch counts as having missed it. */
  readonly graceMs: number;
}

export const DEFAULT_MAX_CASCADE_DEPTH = 50;
const DEFAULT_LANES = "default";
const DEFAULT_GRACE_SECONDS = 30;
const MAX_GRACE_SECONDS = 86_400;
/** The greatest whole number that a Number attribute of SQS and a double both hold with room to spare. */
const MAX_DEPTH_SETTING = 1_000_000_000;

/** Reads the configuration; throws one ConfigurationError that names every fault. */
export function readDispatchConfig(env: Environment): DispatchConfig {
  const faults: string[] = [];
  const config: DispatchConfig = {
    ...readDeployment(env, faults),
    deadLetterQueueUrl: isSet(env, "DEAD_LETTER_QUEUE_URL")
      ? readQueueUrl(env, "DEAD_LETTER_QUEUE_URL", faults)
      : undefined,
    maxCascadeDepth: readWhole(
      env,
      "MAX_CASCADE_DEPTH",
      0,
      MAX_DEPTH_SETTING,
      DEFAULT_MAX_CASCADE_DEPTH,
      faults,
    ),
    edition: readEdition(env, faults),
  };
  if (faults.length > 0) throw new ConfigurationError(faults);
  return config;
}

/** Reads the configuration; throws one ConfigurationError that names every fault. */
export function readReconcileConfig(env: Environment): ReconcileConfig {
  const faults: string[] = [];
  const graceSeconds = readWhole(
    env,
    "RECONCILE_GRACE_SECONDS",
    0,
    MAX_GRACE_SECONDS,
    DEFAULT_GRACE_SECONDS,
    faults,
  );
  const config: ReconcileConfig = {
    ...readDeployment(env, faults),
    lanes: readLanes(env, faults),
    graceMs: graceSeconds * 1_000,
  };
  if (faults.length > 0) throw new ConfigurationError(faults);
  return config;
}

function readDeployment(env: Environment, faults: string[]): DeploymentConfig {
  return {
    ...readValkeyConfig(env, faults),
    completionsQueueUrl: readQueueUrl(env, "COMPLETIONS_QUEUE_URL", faults),
  };
}

export function readValkeyConfig(env: Environment, faults: string[]): ValkeyConfig {
  const preset = DEFAULT_PARTITION_CONFIG.numFlowPartitions;
  return {
    valkey: readValkey(env, faults),
    partitions: {
      ...DEFAULT_PARTITION_CONFIG,
      numFlowPartitions: readWhole(env, "FLOW_PARTITIONS", 1, 65_536, preset, faults),
    },
  };
}

/** A lane whose name has a comma, or a space at an end, can only come from the lanes that the deployment records. */
function readLanes(env: Environment, faults: string[]): LaneId[] {
  const lanes = new Set<LaneId>();
  for (const text of (isSet(env, "LANES") ? (env.LANES ?? "") : DEFAULT_LANES).split(",")) {
    const lane = parseLaneId(text.trim());
    if (lane.ok) lanes.add(lane.value);
    else faults.push(`LANES is not a list of lanes with commas between them: ${lane.error.message}`);
  }
  return [...lanes];
}

export function readEdition(env: Environment, faults: string[]): Edition | "auto" {
  const text = readChoice(env, "LIBRARY_EDITION", ["auto", "11", "14"], "auto", faults);
  if (text === "auto") return "auto";
  return text === "11" ? 11 : 14;
}
