import {
  type Environment,
  readConfiguration,
  readInteger,
  readQueueUrls,
} from "#shared/runtime/environment.ts";

/** The configuration of a replay, from the environment variables. */
export interface RedriveConfig {
  readonly deadLetterQueueUrl: string;
  /** The queue that dead letters are sent back to. */
  readonly completionsQueueUrl: string;
  /** A message that has been replayed this often stays in the dead-letter queue. */
  readonly maxReplays: number;
}

const DEFAULT_MAX_REPLAYS = 5;
const MAX_MAX_REPLAYS = 1_000;

/** Reads the configuration. Throws one ConfigurationError that lists every invalid variable. */
export function readRedriveConfig(env: Environment): RedriveConfig {
  return readConfiguration(env, (errors) => ({
    ...readQueueUrls(env, errors),
    maxReplays: readInteger(env, "MAX_REPLAYS", 1, MAX_MAX_REPLAYS, DEFAULT_MAX_REPLAYS, errors),
  }));
}
