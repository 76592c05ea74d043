/** One server of the deployment, and a connection to it. */

import { Redis, type RedisOptions } from "iovalkey";
import { messageOf } from "#shared/errors.ts";
import type { ValkeyAddress } from "#shared/valkey/address.ts";
import { connectionOptions } from "#shared/valkey/authentication.ts";

export interface NodeAddress {
  readonly host: string;
  readonly port: number;
}

/** `host:port`. */
export function nameOf({ host, port }: NodeAddress): string {
  return `${host}:${port}`;
}

/** The node that the configuration names. */
export function seedOf({ url }: ValkeyAddress): NodeAddress {
  return { host: url.hostname.replace(/^\[|\]$/g, ""), port: Number(url.port || 6379) };
}

const REPLY_MS = 5_000;

const CONNECTION: RedisOptions = {
  lazyConnect: true,
  // Who loses a connection makes a new one, with the credentials of that moment.
  retryStrategy: () => null,
  maxRetriesPerRequest: 0,
  autoResubscribe: false,
  // A server that is loading tells its subscribers of what others publish.
  enableReadyCheck: false,
};

/** A connection to one node, for one life: it does not come back by itself. */
export class NodeConnection {
  readonly client: Redis;
  /** Who waits now. Races with one promise for the connection's whole life would each leave something behind. */
  readonly #waiters = new Set<(reason: Error) => void>();
  #ended: Error | undefined;
  #fault: Error | undefined;

  /** Does not connect: the first command does. */
  constructor(address: ValkeyAddress, node: NodeAddress) {
    this.client = new Redis({ ...CONNECTION, ...connectionOptions(address), ...node });
    this.client.on("error", (error) => {
      // Its text alone: the error carries the command, and with it a password.
      this.#fault = new Error(messageOf(error));
    });
    this.client.once("end", () => {
      this.#ended = this.#fault ?? new Error("the connection ended");
      for (const reject of this.#waiters) reject(this.#ended);
    });
  }

  /** The command's reply. Rejects where it does not come in time, or the connection ends. */
  async ask<T>(command: () => Promise<T>): Promise<T> {
    const { promise: late, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(() => reject(new Error(`no reply within ${REPLY_MS} ms`)), REPLY_MS);
    try {
      return await this.#orLost(Promise.race([command(), late]));
    } catch (error) {
      throw this.#fault ?? error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Waits for a pause. Rejects when the connection ends before it. */
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
