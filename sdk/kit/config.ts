import type { TaskRegistry } from "#sdk/kit/registry.ts";
import type { Edition } from "#shared/contract/edition.ts";
import type { LaneId } from "#shared/contract/ids.ts";
import { readReadyQueues } from "#shared/ready/config.ts";
import { type Environment, readConfiguration, readQueueUrl } from "#shared/runtime/environment.ts";
import { readEdition, readValkeyConfig, type ValkeyConfig } from "#shared/valkey/config.ts";

/** The configuration of a worker, from its environment variables. */
export interface WorkerConfig extends ValkeyConfig {
  readonly completionsQueueUrl: string;
  /** The ready queue of each lane that has one. */
  readonly readyQueueUrls: ReadonlyMap<LaneId, string>;
  readonly edition: Edition | "auto";
}

/**
 * Reads the configuration. `needsReadyQueues`: every lane of the tasks must have a ready queue. Throws one ConfigurationError
 * that lists every problem.
 */
export function readWorkerConfig(
  env: Environment,
  tasks: TaskRegistry,
  { needsReadyQueues }: { readonly needsReadyQueues: boolean },
): WorkerConfig {
  return readConfiguration(env, (errors) => {
    const readyQueueUrls = readReadyQueues(env, errors);
    for (const lane of needsReadyQueues ? tasks.lanes : []) {
      if (!readyQueueUrls.has(lane)) {
        errors.push(
          `READY_QUEUES has no queue for the lane "${lane}": add the queue that triggers this function`,
        );
      }
    }
    return {
      ...readValkeyConfig(env, errors),
      completionsQueueUrl: readQueueUrl(env, "COMPLETIONS_QUEUE_URL", errors),
      readyQueueUrls,
      edition: readEdition(env, errors),
    };
  });
}
