import type { Edition } from "#shared/contract/edition.ts";
import { ConfigurationError } from "#shared/errors.ts";
import { DEFAULT_PARTITION_CONFIG, type PartitionConfig } from "#shared/partitions.ts";
import type { ValkeyAddress } from "#shared/valkey/client.ts";

/** What the dispatch function needs to know, from its environment. */
export interface DispatchConfig {
  readonly valkey: ValkeyAddress;
  readonly completionsQueueUrl: string;
  readonly partitions: PartitionConfig;
  /** Completions deeper than this are acknowledged and not dispatched. */
  readonly maxCascadeDepth: number;
  /** `auto`: ask the library for its version. */
  readonly edition: Edition | "auto";
}

export const DEFAULT_MAX_CASCADE_DEPTH = 50;
/** The greatest whole number that a Number attribute of SQS and a double both hold with room to spare. */
const MAX_DEPTH_SETTING = 1_000_000_000;

type Environment = Readonly<Record<string, string | undefined>>;

/** Reads the configuration; throws one ConfigurationError that names every fault. */
export function readDispatchConfig(env: Environment): DispatchConfig {
  const faults: string[] = [];
  const config: DispatchConfig = {
    valkey: {
      url: readUrl(env, "VALKEY_URL", ["redis:", "rediss:"], "redis://host:6379", faults),
      cluster: readChoice(env, "VALKEY_CLUSTER_MODE", ["true", "false"], "false", faults) === "true",
    },
    completionsQueueUrl: readUrl(
      env,
      "COMPLETIONS_QUEUE_URL",
      ["http:", "https:"],
      "https://sqs.<region>.amazonaws.com/<account>/<queue>",
      faults,
    ).href,
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
  const { url, cluster } = config.valkey;
  if (cluster && url.pathname.length > 1) {
    faults.push("VALKEY_URL names a database, and a cluster (VALKEY_CLUSTER_MODE=true) has only database 0");
  }
  if (!/^\/?\d*$/.test(url.pathname)) {
    faults.push(`VALKEY_URL has the path "${url.pathname}": only a database number may stand there`);
  }
  if (faults.length > 0) throw new ConfigurationError(faults);
  return config;
}

function readEdition(env: Environment, faults: string[]): Edition | "auto" {
  const text = readChoice(env, "LIBRARY_EDITION", ["auto", "11", "14"], "auto", faults);
  if (text === "11") return 11;
  return text === "14" ? 14 : "auto";
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

function readWhole(
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
