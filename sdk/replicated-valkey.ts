import { ReconnectingValkey } from "#sdk/reconnecting-valkey.ts";
import type { Pipelines, ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";
import { ConfigurationError } from "#shared/errors.ts";
import type { NodeAddress } from "#shared/valkey/address.ts";
import type { Valkey } from "#shared/valkey/client.ts";

/** How many replicas must have received a write before it counts as written. */
export interface ReplicationOptions {
  /** How many replicas must confirm each pipeline. 0, the default: none, and nothing waits. */
  readonly waitReplicas?: number;
  /** Milliseconds; 1,000 by default. Above 0 and below the command timeout of the client. */
  readonly waitTimeoutMs?: number;
}

interface QueuedPipeline {
  readonly commands: readonly ValkeyCommand[];
  resolve(results: ValkeyResult[]): void;
}

const DEFAULT_WAIT_TIMEOUT_MS = 1_000;

/**
 * A connection for writes that a failover must not lose. Each pipeline waits until `waitReplicas` replicas have received
 * what it wrote or found written. If they do not confirm in time, its results are `NotReplicatedError`s: written, but not
 * confirmed.
 *
 * It opens a connection that nothing else may use, because commands behind a `WAIT` wait as well. Calls made during a wait
 * are sent together when it ends, and share the next one. Like `ReconnectingValkey`, it replaces a broken connection and
 * repeats nothing.
 *
 * @throws ConfigurationError from the constructor if an option is out of range.
 *
 * @example
 * const replicated = new ReplicatedValkey(connect, { waitReplicas: 1 });
 * await submitFlow({ valkey: replicated, router, completions }, workflow, { flowId });
 * await workBatch({ valkey, replicated, router, completions, identity }, source, handler, { limit: 10 });
 * replicated.close();
 */
export class ReplicatedValkey implements Pipelines {
  readonly #connection: ReconnectingValkey;
  readonly #replicas: number;
  readonly #timeoutMs: number;
  #queue: QueuedPipeline[] = [];
  #isSending = false;

  constructor(
    connect: (knownNodes: readonly NodeAddress[]) => Valkey,
    { waitReplicas = 0, waitTimeoutMs = DEFAULT_WAIT_TIMEOUT_MS }: ReplicationOptions = {},
  ) {
    this.#connection = new ReconnectingValkey(connect);
    this.#replicas = waitReplicas;
    this.#timeoutMs = waitTimeoutMs;
    const errors = invalidOptions(waitReplicas, waitTimeoutMs, this.#connection.client.commandTimeoutMs);
    if (errors.length === 0) return;
    this.close();
    throw new ConfigurationError(errors);
  }

  pipelined(commands: readonly ValkeyCommand[]): Promise<ValkeyResult[]> {
    if (this.#replicas === 0) return this.#connection.pipelined(commands);
    const { promise, resolve } = Promise.withResolvers<ValkeyResult[]>();
    this.#queue.push({ commands, resolve });
    if (!this.#isSending) void this.#sendQueued();
    return promise;
  }

  /** Closes the connection at once. Calls in flight fail, and so do all later ones. */
  close(): void {
    this.#connection.close();
  }

  async #sendQueued(): Promise<void> {
    this.#isSending = true;
    while (this.#queue.length > 0) {
      const pipelines = this.#queue;
      this.#queue = [];
      const results = await this.#connection.client.replicated(
        pipelines.flatMap(({ commands }) => commands),
        { replicas: this.#replicas, timeoutMs: this.#timeoutMs },
      );
      let start = 0;
      for (const { commands, resolve } of pipelines) {
        resolve(results.slice(start, start + commands.length));
        start += commands.length;
      }
    }
    this.#isSending = false;
  }
}

function invalidOptions(replicas: number, timeoutMs: number, commandTimeoutMs: number): string[] {
  const errors: string[] = [];
  if (!Number.isSafeInteger(replicas) || replicas < 0) {
    errors.push(`waitReplicas is ${replicas}: expected an integer of 0 or more`);
  }
  // WAIT takes whole milliseconds, and 0 would wait for ever.
  if (!Number.isSafeInteger(timeoutMs) || timeoutMs <= 0 || timeoutMs >= commandTimeoutMs) {
    errors.push(
      `waitTimeoutMs is ${timeoutMs}: expected an integer above 0 and below the command timeout of ${commandTimeoutMs} ms`,
    );
  }
  return errors;
}
