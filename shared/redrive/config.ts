import { ConfigurationError } from "#shared/errors.ts";
import { type Environment, readInteger, readQueueUrl } from "#shared/runtime/environment.ts";

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

/** Reads the configuration; throws one ConfigurationError that lists every invalid variable. */
export function readRedriveConfig(env: Environment): RedriveConfig {
  const errors: string[] = [];
  const config: RedriveConfig = {
    deadLetterQueueUrl: readQueueUrl(env, "DEAD_LETTER_QUEUE_URL", errors),
    completionsQueueUrl: readQueueUrl(env, "COMPLETIONS_QUEUE_URL", errors),
    maxReplays: readInteger(env, "MAX_REPLAYS", 1, MAX_MAX_REPLAYS, DEFAULT_MAX_REPLAYS, errors),
  };
  if (errors.length === 0 && config.deadLetterQueueUrl === config.completionsQueueUrl) {
    errors.push(
      "DEAD_LETTER_QUEUE_URL and COMPLETIONS_QUEUE_URL name the same queue: set them to different queues",
    );
  }
  if (errors.length > 0) throw new ConfigurationError(errors);
  return config;
}
