import type { Edition } from "#shared/contract/edition.ts";
import { ConfigurationError } from "#shared/errors.ts";
import { type Environment, isSet, readInteger, readQueueUrl } from "#shared/runtime/environment.ts";
import { readEdition, readValkeyConfig, type ValkeyConfig } from "#shared/valkey/config.ts";

/** The configuration of the dispatch function, from its environment variables. */
export interface DispatchConfig extends ValkeyConfig {
  readonly completionsQueueUrl: string;
  /** Undefined: only the queue's redrive policy dead-letters messages, after several deliveries and without a reason. */
  readonly deadLetterQueueUrl: string | undefined;
  /** Completions deeper than this are acknowledged and not dispatched. */
  readonly maxCascadeDepth: number;
  /** `auto`: the edition that belongs to the version of the loaded library. */
  readonly edition: Edition | "auto";
}

export const DEFAULT_MAX_CASCADE_DEPTH = 50;
/** Far below the largest integer of a Number attribute of SQS and of a JavaScript number. */
const MAX_DEPTH_SETTING = 1_000_000_000;

/** Reads the configuration; throws one ConfigurationError that lists every invalid variable. */
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
