import type { Edition } from "#shared/contract/edition.ts";
import { ConfigurationError } from "#shared/errors.ts";
import { type LaneId, parseLaneId } from "#shared/ids.ts";
import { DEFAULT_PARTITION_CONFIG, type PartitionConfig } from "#shared/partitions.ts";
import type { ValkeyAddress } from "#shared/valkey/client.ts";

/** Where the deployment is: what every function on Valkey needs to know. */
export interface DeploymentConfig {
  readonly valkey: ValkeyAddress;
  readonly completionsQueueUrl: string;
  readonly partitions: PartitionConfig;
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

export type Environment = Readonly<Record<string, string | undefined>>;

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
    valkey: readValkey(env, faults),
    completionsQueueUrl: readQueueUrl(env, "COMPLETIONS_QUEUE_URL", faults),
    partitions: {
      ...DEFAULT_PARTITION_CONFIG,
      numFlowPartitions: readWhole(
        env,
        "FLOW_PARTITIONS",
        1,
        65_536,
        DEFAULT_PARTITION_CONFIG.numFlowPartitions,
        faults,
      ),
    },
  };
}

function readValkey(env: Environment, faults: string[]): ValkeyAddress {
  const url = readUrl(env, "VALKEY_URL", ["redis:", "rediss:"], "redis://host:6379", faults);
  const cluster = readChoice(env, "VALKEY_CLUSTER_MODE", ["true", "false"], "false", faults) === "true";
  // The value may hold a password, and faults are logged: never show a part of it.
  if (!/^\/?\d*$/.test(url.pathname) || url.search !== "" || url.hash !== "") {
    faults.push(
      "VALKEY_URL has more behind its host than a database number: leave that out, and write a / ? or # of the " +
        "user or password as %2F %3F or %23",
    );
  } else if (cluster && Number(url.pathname.slice(1)) !== 0) {
    faults.push("VALKEY_URL names a database, and a cluster (VALKEY_CLUSTER_MODE=true) has only database 0");
  }
  if (!isDecodable(url.username) || !isDecodable(url.password)) {
    faults.push("VALKEY_URL has a % in its user or password that begins no escape: write it as %25");
  }
  return { url, cluster };
}

function isDecodable(text: string): boolean {
  try {
    decodeURIComponent(text);
    return true;
  } catch {
    return false;
  }
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

function readEdition(env: Environment, faults: string[]): Edition | "auto" {
  const text = readChoice(env, "LIBRARY_EDITION", ["auto", "11", "14"], "auto", faults);
  if (text === "11") return 11;
  return text === "14" ? 14 : "auto";
}

function isSet(env: Environment, name: string): boolean {
  return (env[name] ?? "") !== "";
}

export function readQueueUrl(env: Environment, name: string, faults: string[]): string {
  const example = "https://sqs.<region>.amazonaws.com/<account>/<queue>";
  return readUrl(env, name, ["http:", "https:"], example, faults).href;
}

function readUrl(
  env: Environment,
  name: string,
  protocols: readonly string[],
  example: string,
  faults: string[],
): URL {
  const text = env[name] ?? "";
  const url = URL.parse(text);
  if (url !== null && protocols.includes(url.protocol) && url.hostname !== "") return url;
  // The value may hold a password, and faults are logged: name the variable, not its value.
  faults.push(
    text === ""
      ? `${name} is not set: give a URL like ${example}`
      : `${name} is not a ${protocols.map((protocol) => `${protocol}//`).join(" or ")} URL with a host`,
  );
  return new URL("redis://unset");
}

function readChoice(
  env: Environment,
  name: string,
  choices: readonly string[],
  preset: string,
  faults: string[],
): string {
  const text = env[name] ?? "";
  if (text === "") return preset;
  if (!choices.includes(text)) faults.push(`${name} is "${text}": it takes ${choices.join(", ")}`);
  return text;
}

export function readWhole(
  env: Environment,
  name: string,
  least: number,
  most: number,
  preset: number,
  faults: string[],
): number {
  const text = env[name] ?? "";
  if (text === "") return preset;
  const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
  if (value >= least && value <= most) return value;
  faults.push(`${name} is "${text}": it takes a whole number from ${least} to ${most}`);
  return preset;
}
