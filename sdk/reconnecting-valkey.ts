import type { Pipelines, ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";
import type { NodeAddress } from "#shared/valkey/address.ts";
import type { Valkey } from "#shared/valkey/client.ts";

/**
 * A Valkey connection for long-running applications such as workers: it replaces a broken client with a new one.
 *
 * A `Valkey` client ends with its connection, and every later command fails at once. This class connects again at the
 * next call. It repeats nothing: the call during which the connection breaks fails, and the caller decides whether to
 * retry it.
 *
 * `connect` creates a client. It gets the cluster nodes that the previous client knew.
 *
 * @example
 * const valkey = new ReconnectingValkey(
 *   (knownNodes) => new Valkey({ url, cluster: true }, { knownNodes, onConnectionError: console.error }),
 * );
 * await workBatch({ valkey, router, completions, identity }, source, handler, { limit: 10 });
 * valkey.close();
 */
export class ReconnectingValkey implements Pipelines {
  readonly #connect: (knownNodes: readonly NodeAddress[]) => Valkey;
  #client: Valkey;
  #knownNodes: readonly NodeAddress[] = [];
  #isClosed = false;

  constructor(connect: (knownNodes: readonly NodeAddress[]) => Valkey) {
    this.#connect = connect;
    this.#client = connect([]);
  }

  /** The current client; a new one if the connection is broken. Do not keep it. */
  get client(): Valkey {
    if (this.#client.isBroken && !this.#isClosed) this.#reconnect();
    return this.#client;
  }

  pipelined(commands: readonly ValkeyCommand[]): Promise<ValkeyResult[]> {
    return this.client.pipelined(commands);
  }

  /** Closes the connection at once. Calls in flight fail, and so do all later ones. */
  close(): void {
    this.#isClosed = true;
    this.#client.close();
  }

  #reconnect(): void {
    // A client that never connected knows no nodes: keep those of the client before it.
    const nodes = this.#client.knownNodes;
    if (nodes.length > 0) this.#knownNodes = nodes;
    this.#client.close();
    this.#client = this.#connect(this.#knownNodes);
  }
}
