import type { Edition } from "#shared/contract/edition.ts";
import { ConfigurationError } from "#shared/errors.ts";
import { type Environment, isSet, readInteger, readQueueUrl } from "#shared/runtime/environment.ts";
import { readEdition, readValkeyConfig, type ValkeyConfig } from "#shared/valkey/config.ts";

/** What the dispatch function needs to know, from its environment. */
export interface DispatchConfig extends ValkeyConfig {
  readonly completionsQueueUrl: string;
  /** Undefined: messages that no retry can help are left to the queue's redrive policy. */
  readonly deadLetterQueueUrl: string | undefined;
  /** Completions deeper than this are acknowledged and not dispatched. */
  readonly maxCascadeDepth: number;
  /** `auto`: ask the library for its version. */
  readonly edition: Edition | "auto";
}

export const DEFAULT_MAX_CASCADE_DEPTH = 50;
/** The greatest whole number that a Number attribute of SQS and a double both hold with room to spare. */
const MAX_DEPTH_SETTING = 1_000_000_000;

/** Reads the configuration; throws one ConfigurationError that names every fault. */
export function readDispatchConfig(env: Environment): DispatchConfig {
  const errors: string[] = [];
  const config: DispatchConfig = {
    ...readValkeyConfig(env, errors),
    completionsQueueUrl: readQueueUrl(env, "COMPLETIONS_QUEUE_URL", errors),
    deadLetterQueueUrl: isSet(env, "DEAD_LETTER_QUEUE_URL")
      ? readQueueUrl(env, "DEAD_LETTER_QUEUE_URL", errors)
      : undefined,
    maxCascadeDepth: readInteger(
      env,
      "MAX_CASCADE_DEPTH",
      0,
      MAX_DEPTH_SETTING,
      DEFAULT_MAX_CASCADE_DEPTH,
      errors,
    ),
    edition: readEdition(env, errors),
  };
  if (errors.length > 0) throw new ConfigurationError(errors);
  return config;
}
