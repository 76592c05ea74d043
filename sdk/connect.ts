import { ReconnectingValkey } from "#sdk/reconnecting-valkey.ts";
import { ReplicatedValkey, type ReplicationOptions } from "#sdk/replicated-valkey.ts";
import type { Pipelines } from "#shared/contract/command.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { queueClient } from "#shared/queue/client.ts";
import { type CompletionPublisher, SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { readReadyQueues } from "#shared/ready/config.ts";
import { type ReadyPublisher, SqsReadyPublisher } from "#shared/ready/publisher.ts";
import { type Environment, readConfiguration, readQueueUrl } from "#shared/runtime/environment.ts";
import type { NodeAddress } from "#shared/valkey/address.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { readEdition, readValkeyConfig } from "#shared/valkey/config.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { checkPartitions } from "#shared/valkey/start-up.ts";

/** What the functions of this package need: Valkey, its partitions, the completions queue and the ready queues. */
export interface Connection extends Disposable {
  /** Replaces a broken connection at the next call. It repeats nothing: the call during which it breaks fails. */
  readonly valkey: Pipelines;
  readonly router: PartitionRouter;
  readonly completions: CompletionPublisher;
  /** Announces executions in the queues of `READY_QUEUES`. Undefined if no lane has one. */
  readonly ready: ReadyPublisher | undefined;
  /** The connection for writes that a failover must not lose. The same as `valkey` unless `waitReplicas` is above 0. */
  readonly replicated: Pipelines;
  /** Closes the connections at once. Calls in flight fail, and so do all later ones. */
  close(): void;
}

/** Options of `connect`. */
export interface ConnectOptions extends ReplicationOptions {
  /** Called with each error of a connection to Valkey. By default, it is written to standard error. */
  readonly onConnectionError?: (error: Error) => void;
}

/**
 * Connects to the Valkey and the completions queue that environment variables name, checks the number of partitions, and
 * loads Sluice's Lua library on every primary that has none.
 *
 * @param environment VALKEY_URL, COMPLETIONS_QUEUE_URL, READY_QUEUES, FLOW_PARTITIONS and so on (docs/configuration.md). Region and
 * credentials of the queue come from the variables of the process, as for every client of the AWS SDK.
 * @param options With `waitReplicas` above 0, outcomes of workers wait until that many replicas have received them.
 * @throws ConfigurationError that lists every missing or invalid variable, or says that the data has another number of
 * partitions, or that an option is out of range.
 * @throws ValkeyError if Valkey does not answer.
 *
 * @example
 * using sluice = await connect();
 * await submitFlow(sluice, workflow, { flowId });
 */
export async function connect(
  environment: Environment = process.env,
  { onConnectionError = writeError, ...replication }: ConnectOptions = {},
): Promise<Connection> {
  const { queueUrl, readyQueues, edition, ...config } = readConfiguration(environment, (errors) => ({
    ...readValkeyConfig(environment, errors),
    queueUrl: readQueueUrl(environment, "COMPLETIONS_QUEUE_URL", errors),
    readyQueues: readReadyQueues(environment, errors),
    edition: readEdition(environment, errors),
  }));
  const open = (knownNodes: readonly NodeAddress[]): Valkey =>
    new Valkey(config.valkey, { knownNodes, onConnectionError });

  using parts = new DisposableStack();
  const valkey = parts.adopt(new ReconnectingValkey(open), (client) => client.close());
  await checkPartitions(valkey.client, config);
  await ensureLibrary(valkey.client, edition);
  const queue = parts.adopt(queueClient(), (client) => client.destroy());
  const hasReplicas = (replication.waitReplicas ?? 0) !== 0;
  const replicated = hasReplicas
    ? parts.adopt(new ReplicatedValkey(open, replication), (client) => client.close())
    : valkey;
  const connected = parts.move();
  const close = (): void => connected.dispose();
  return {
    valkey,
    replicated,
    router: new PartitionRouter(config.partitions),
    completions: new SqsCompletionPublisher(queue, queueUrl),
    ready: readyQueues.size === 0 ? undefined : new SqsReadyPublisher(queue, readyQueues),
    close,
    [Symbol.dispose]: close,
  };
}

function writeError({ message }: Error): void {
  console.error(`sluice: connection to Valkey failed: ${message}`);
}
