/** A connection to one Valkey node, for subscribing. */

import { Redis, type RedisOptions } from "iovalkey";
import { messageOf } from "#shared/errors.ts";
import type { NodeAddress, ValkeyAddress } from "#shared/valkey/address.ts";
import { connectionOptions } from "#shared/valkey/authentication.ts";

const REPLY_MS = 5_000;

const CONNECTION: RedisOptions = {
  lazyConnect: true,
  // The subscription replaces a lost connection, with credentials that are valid then.
  retryStrategy: () => null,
  maxRetriesPerRequest: 0,
  autoResubscribe: false,
  // A server that is still loading delivers publications of other nodes to its subscribers.
  enableReadyCheck: false,
};

/** A connection to one node. It does not reconnect. */
export class NodeConnection {
  readonly client: Redis;
  /** Pending waits. A race against one promise for the connection's whole life would leak a reaction per race. */
  readonly #waiters = new Set<(reason: Error) => void>();
  #ended: Error | undefined;
  #lastError: Error | undefined;

  /** Connects with the first command. */
  constructor(address: ValkeyAddress, node: NodeAddress) {
    this.client = new Redis({ ...CONNECTION, ...connectionOptions(address), ...node });
    this.client.on("error", (error) => {
      // Only the message: the error object holds the command, which may contain a password.
      this.#lastError = new Error(messageOf(error));
    });
    this.client.once("end", () => {
      this.#ended = this.#lastError ?? new Error("the connection ended");
      for (const reject of this.#waiters) reject(this.#ended);
    });
  }

  /** The reply of a command. Rejects after 5 seconds without a reply, and when the connection ends. */
  async ask<T>(command: () => Promise<T>): Promise<T> {
    const { promise: late, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(() => reject(new Error(`no reply within ${REPLY_MS} ms`)), REPLY_MS);
    try {
      return await this.#orLost(Promise.race([command(), late]));
    } catch (error) {
      throw this.#lastError ?? error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Waits for a pause. Rejects when the connection ends earlier. */
  async idle(pause: Promise<void>): Promise<void> {
    await this.#orLost(pause);
  }

  async #orLost<T>(awaited: Promise<T>): Promise<T> {
    const { promise: lost, reject } = Promise.withResolvers<never>();
    this.#waiters.add(reject);
    if (this.#ended !== undefined) reject(this.#ended);
    try {
      return await Promise.race([awaited, lost]);
    } finally {
      this.#waiters.delete(reject);
    }
  }

  close(): void {
    this.client.disconnect();
  }
}
