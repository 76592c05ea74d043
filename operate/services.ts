/** Opens what operations work on, from environment variables. */

import type { OperateContext, QueueUrls } from "#operate/operation.ts";
import { type Edition, editionOf } from "#shared/contract/edition.ts";
import { PARTITION_CONFIG_KEY } from "#shared/contract/keys.ts";
import { DEFAULT_PARTITION_CONFIG, PartitionRouter } from "#shared/contract/partitions.ts";
import { ConfigurationError, ValkeyError } from "#shared/errors.ts";
import { queueClient } from "#shared/queue/client.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { readReadyQueues } from "#shared/ready/config.ts";
import { SqsReadyPublisher } from "#shared/ready/publisher.ts";
import {
  type Environment,
  isSet,
  readConfiguration,
  readInteger,
  readQueueUrl,
} from "#shared/runtime/environment.ts";
import type { ValkeyAddress } from "#shared/valkey/address.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { readEdition, readValkey } from "#shared/valkey/config.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { checkPartitions } from "#shared/valkey/start-up.ts";

/** A primary that does not answer within this time counts as unreachable. Milliseconds. */
const CHECK_TIMEOUT_MS = 2_000;

/** The configuration of operations. */
export interface OperateConfig {
  readonly valkey: ValkeyAddress;
  /** `FLOW_PARTITIONS`. Undefined if it is not set: then the count that Valkey records is used. */
  readonly numFlowPartitions: number | undefined;
  readonly edition: Edition | "auto";
  readonly queues: QueueUrls;
  readonly environment: Environment;
}

/** What all operations of a process share: a context without the caller. */
export type OperateServices = Omit<OperateContext, "actor" | "deadlineMs"> & {
  /** Loads Sluice's library where a primary has none, and returns the edition. A change needs it. */
  ensureLibrary(): Promise<Edition | undefined>;
  /** Throws a ConfigurationError if the recorded partition count differs from the configured one. */
  checkPartitions(): Promise<void>;
  close(): void;
};

/**
 * Reads `VALKEY_*`, and where they are set `FLOW_PARTITIONS`, `LIBRARY_EDITION`, `COMPLETIONS_QUEUE_URL`,
 * `DEAD_LETTER_QUEUE_URL` and `READY_QUEUES`.
 *
 * @throws ConfigurationError that lists every problem.
 */
export function readOperateConfig(environment: Environment): OperateConfig {
  const optionalQueue = (name: string, errors: string[]): string | undefined =>
    isSet(environment, name) ? readQueueUrl(environment, name, errors) : undefined;
  return readConfiguration(environment, (errors) => {
    const completions = optionalQueue("COMPLETIONS_QUEUE_URL", errors);
    const deadLetters = optionalQueue("DEAD_LETTER_QUEUE_URL", errors);
    return {
      valkey: readValkey(environment, errors),
      numFlowPartitions: isSet(environment, "FLOW_PARTITIONS")
        ? readInteger(environment, "FLOW_PARTITIONS", 1, 65_536, 256, errors)
        : undefined,
      edition: readEdition(environment, errors),
      queues: {
        ...(completions === undefined ? {} : { completions }),
        ...(deadLetters === undefined ? {} : { deadLetters }),
        ready: readReadyQueues(environment, errors),
      },
      environment,
    };
  });
}

/** Connects to Valkey, and creates clients of the queues. Closing the services closes `valkey`. */
export async function openServices(
  config: OperateConfig,
  onConnectionError: (error: Error) => void,
): Promise<OperateServices> {
  const valkey = new Valkey(config.valkey, { onConnectionError });
  try {
    return await servicesOn(valkey, config);
  } catch (error) {
    valkey.close();
    throw error;
  }
}

/**
 * Creates services with a given client. They also start where Valkey is down, the library is missing or the partition count
 * is wrong: `doctor` and `explain` report that.
 */
export async function servicesOn(valkey: Valkey, config: OperateConfig): Promise<OperateServices> {
  const partitions = {
    ...DEFAULT_PARTITION_CONFIG,
    numFlowPartitions: config.numFlowPartitions ?? (await recordedPartitions(valkey)),
  };
  const edition = await loadedEdition(valkey, config.edition);
  const sqs = queueClient();
  const { completions, ready } = config.queues;
  return {
    valkey,
    router: new PartitionRouter(partitions),
    edition,
    sqs,
    queues: config.queues,
    completions: completions === undefined ? undefined : new SqsCompletionPublisher(sqs, completions),
    ready: ready.size === 0 ? undefined : new SqsReadyPublisher(sqs, ready),
    environment: config.environment,
    ensureLibrary: async () => {
      await ensureLibrary(valkey, config.edition);
      return loadedEdition(valkey, config.edition);
    },
    checkPartitions: async () => {
      await checkPartitions(valkey, { partitions });
    },
    close: () => {
      valkey.close();
      sqs.destroy();
    },
  };
}

async function recordedPartitions(valkey: Valkey): Promise<number> {
  const recorded = await valkey
    .callWithin(CHECK_TIMEOUT_MS, "hget", PARTITION_CONFIG_KEY, "num_flow_partitions")
    .catch(() => null);
  const count = Number(recorded ?? Number.NaN);
  const isCount = Number.isInteger(count) && count >= 1 && count <= 65_536;
  return isCount ? count : DEFAULT_PARTITION_CONFIG.numFlowPartitions;
}

/** The edition of the library on the first primary that has one. Loads nothing. */
async function loadedEdition(valkey: Valkey, configured: Edition | "auto"): Promise<Edition | undefined> {
  try {
    for (const node of await valkey.primaries()) {
      const version = await node
        .callWithin(CHECK_TIMEOUT_MS, "fcall", "ff_version", 0)
        .catch(() => undefined);
      if (version !== undefined) return editionOf(version, configured);
    }
  } catch (error) {
    // Valkey is down, or has an unknown library: operations that need the edition fail with their own error.
    if (!(error instanceof ConfigurationError) && !(error instanceof ValkeyError)) throw error;
  }
  return undefined;
}
