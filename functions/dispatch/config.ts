import type { Edition } from "#shared/contract/edition.ts";
import type { LaneId } from "#shared/contract/ids.ts";
import { readReadyQueues } from "#shared/ready/config.ts";
import {
  type Environment,
  isSet,
  readConfiguration,
  readInteger,
  readQueueUrl,
  readQueueUrls,
} from "#shared/runtime/environment.ts";
import { readEdition, readValkeyConfig, type ValkeyConfig } from "#shared/valkey/config.ts";

/** The configuration of the dispatch function, from its environment variables. */
export interface DispatchConfig extends ValkeyConfig {
  readonly completionsQueueUrl: string;
  /** Undefined: only the queue's redrive policy dead-letters messages, after several deliveries and without a reason. */
  readonly deadLetterQueueUrl: string | undefined;
  /** Completions deeper than this restart their cascade at depth 0. */
  readonly maxCascadeDepth: number;
  /** How long a restarted completion is delayed, in seconds. */
  readonly restartDelaySeconds: number;
  /** `auto`: the edition that belongs to the version of the loaded library. */
  readonly edition: Edition | "auto";
  /** The ready queue of each lane that has one. */
  readonly readyQueueUrls: ReadonlyMap<LaneId, string>;
}

export const DEFAULT_MAX_CASCADE_DEPTH = 50;
/** Far below the largest integer of a Number attribute of SQS and of a JavaScript number. */
const MAX_DEPTH_SETTING = 1_000_000_000;
const DEFAULT_RESTART_SECONDS = 60;
/** The longest delay of a message in SQS. */
const MAX_RESTART_SECONDS = 900;

/** Reads the configuration. Throws one ConfigurationError that lists every invalid variable. */
export function readDispatchConfig(env: Environment): DispatchConfig {
  return readConfiguration(env, (errors) => ({
    ...readValkeyConfig(env, errors),
    ...(isSet(env, "DEAD_LETTER_QUEUE_URL")
      ? readQueueUrls(env, errors)
      : {
          completionsQueueUrl: readQueueUrl(env, "COMPLETIONS_QUEUE_URL", errors),
          deadLetterQueueUrl: undefined,
        }),
    maxCascadeDepth: readInteger(
      env,
      "MAX_CASCADE_DEPTH",
      0,
      MAX_DEPTH_SETTING,
      DEFAULT_MAX_CASCADE_DEPTH,
      errors,
    ),
    restartDelaySeconds: readInteger(
      env,
      "CASCADE_RESTART_SECONDS",
      0,
      MAX_RESTART_SECONDS,
      DEFAULT_RESTART_SECONDS,
      errors,
    ),
    edition: readEdition(env, errors),
    readyQueueUrls: readReadyQueues(env, errors),
  }));
}
