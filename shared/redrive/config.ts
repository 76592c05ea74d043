import { ConfigurationError } from "#shared/errors.ts";
import { type Environment, readInteger, readQueueUrl } from "#shared/runtime/environment.ts";

/** What a replay needs to know, from the environment. */
export interface RedriveConfig {
  readonly deadLetterQueueUrl: string;
  /** Where dead letters go back to. */
  readonly completionsQueueUrl: string;
  /** A message that was replayed so often stays in the dead-letter queue. */
  readonly maxReplays: number;
}

const DEFAULT_MAX_REPLAYS = 5;
const GREATEST_MAX_REPLAYS = 1_000;

/** Reads the configuration; throws one ConfigurationError that names every fault. */
export function readRedriveConfig(env: Environment): RedriveConfig {
  const errors: string[] = [];
  const config: RedriveConfig = {
    deadLetterQueueUrl: readQueueUrl(env, "DEAD_LETTER_QUEUE_URL", errors),
    completionsQueueUrl: readQueueUrl(env, "COMPLETIONS_QUEUE_URL", errors),
    maxReplays: readInteger(env, "MAX_REPLAYS", 1, GREATEST_MAX_REPLAYS, DEFAULT_MAX_REPLAYS, errors),
  };
  if (errors.length === 0 && config.deadLetterQueueUrl === config.completionsQueueUrl) {
    errors.push("DEAD_LETTER_QUEUE_URL and COMPLETIONS_QUEUE_URL name the same queue: they must be two");
  }
  if (errors.length > 0) throw new ConfigurationError(errors);
  return config;
}
