/** The connections of a cluster client: which node serves a slot, and how to find out. */

import { UnreachableError } from "#shared/errors.ts";
import { type NodeAddress, nameOf, uniqueNodes } from "#shared/valkey/address.ts";
import type { Connection } from "#shared/valkey/connection.ts";
import { Topology } from "#shared/valkey/topology.ts";

/** Timeout of one node's CLUSTER SLOTS in milliseconds. */
const DISCOVERY_TIMEOUT_MS = 2_000;
/** How long a node may take before the next one is asked as well, in milliseconds. A silent node costs this time. */
const NEXT_CANDIDATE_MS = 250;
const MAX_REASONS = 3;

/**
 * Connections to the primaries of a cluster, each opened with its first command.
 *
 * No redirection is followed. While a slot migrates, its keys are on two nodes. If a whole pipeline were redirected to
 * the new node, keys that have not moved yet would read as missing. MOVED and ASK are errors, and the message is
 * retried. The topology is read once: a client with an outdated one must be replaced.
 */
export class ClusterConnections {
  readonly #candidates: readonly NodeAddress[];
  readonly #open: (node: NodeAddress, onEnd: () => void) => Connection;
  readonly #onLost: () => void;
  readonly #connections = new Map<string, Connection>();
  /** Names of the nodes that commands were sent to. */
  readonly #used = new Set<string>();
  #discovery: Promise<Topology> | undefined;
  #topology: Topology | undefined;
  #isClosed = false;

  /** `onLost` is called if a connection ends that commands were sent to. */
  constructor(
    candidates: readonly NodeAddress[],
    open: (node: NodeAddress, onEnd: () => void) => Connection,
    onLost: () => void,
  ) {
    // In random order: a node that is partitioned from the others has outdated knowledge, and must not always be first.
    this.#candidates = uniqueNodes(candidates)
      .map((node) => ({ node, rank: Math.random() }))
      .toSorted((one, other) => one.rank - other.rank)
      .map(({ node }) => node);
    this.#open = open;
    this.#onLost = onLost;
  }

  /** All nodes, replicas included. Empty until the topology is known. */
  get knownNodes(): readonly NodeAddress[] {
    return this.#topology?.nodes ?? [];
  }

  get connections(): readonly Connection[] {
    return [...this.#connections.values()];
  }

  /** Reads the topology if it is not known. Rejects with an UnreachableError if no node answers. */
  topology(): Promise<Topology> {
    this.#discovery ??= this.#discover();
    return this.#discovery;
  }

  /** Returns the connection to a node. */
  to(node: NodeAddress): Connection {
    this.#used.add(nameOf(node));
    return this.#connectionTo(node);
  }

  /** Closes all connections. A discovery that is under way opens no other ones. */
  close(): void {
    this.#isClosed = true;
    for (const connection of this.#connections.values()) connection.close();
  }

  #connectionTo(node: NodeAddress): Connection {
    const name = nameOf(node);
    let connection = this.#connections.get(name);
    if (connection === undefined) {
      connection = this.#open(node, () => {
        if (this.#used.has(name)) this.#onLost();
      });
      this.#connections.set(name, connection);
      // Nothing would close it later.
      if (this.#isClosed) connection.close();
    }
    return connection;
  }

  async #discover(): Promise<Topology> {
    const topology = await firstToSucceed(
      this.#candidates.map((node) => async () => {
        const connection = this.#connectionTo(node);
        return new Topology(await connection.call("cluster", ["SLOTS"], DISCOVERY_TIMEOUT_MS), node);
      }),
    );
    this.#topology = topology;
    const primaries = new Set(topology.primaries.map(nameOf));
    for (const [name, connection] of this.#connections) {
      if (primaries.has(name) && connection.isOpen) continue;
      this.#connections.delete(name);
      connection.close();
    }
    return topology;
  }
}

/**
 * Makes one attempt after the other until one succeeds. The next one starts when all before it have failed, or after
 * 250 ms. Rejects with an UnreachableError if all fail.
 */
async function firstToSucceed<T>(attempts: readonly (() => Promise<T>)[]): Promise<T> {
  const started: Promise<T>[] = [];
  for (const attempt of attempts) {
    started.push(attempt());
    const isOver = Promise.any(started).then(
      () => true,
      () => false,
    );
    if (await withinMs(isOver, NEXT_CANDIDATE_MS)) break;
  }
  try {
    return await Promise.any(started);
  } catch (error) {
    const errors: unknown[] = error instanceof AggregateError ? error.errors : [error];
    throw errors.length === 1 ? errors[0] : new UnreachableError(noneAnswers(errors));
  }
}

function noneAnswers(errors: readonly unknown[]): string {
  const reasons = errors.slice(0, MAX_REASONS).map((error) => (error instanceof Error ? error.message : ""));
  return `no node of the cluster answers: ${reasons.join("; ")}`;
}

/** Returns the value, or false if it does not arrive in time. */
async function withinMs(value: Promise<boolean>, ms: number): Promise<boolean> {
  const { promise: late, resolve } = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => resolve(false), ms);
  try {
    return await Promise.race([value, late]);
  } finally {
    clearTimeout(timer);
  }
}
