import { Command } from "iovalkey";
import type { Pipelines, ValkeyArgument, ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";
import type { Partition } from "#shared/contract/ids.ts";
import { slotOf } from "#shared/contract/partitions.ts";
import { messageOf, UnreachableError, ValkeyError } from "#shared/errors.ts";
import { type NodeAddress, seedNodes, type ValkeyAddress } from "#shared/valkey/address.ts";
import { connectionOptions } from "#shared/valkey/authentication.ts";
import { ClusterConnections } from "#shared/valkey/cluster.ts";
import { Connection } from "#shared/valkey/connection.ts";
import {
  confirmedResults,
  type ReplicationWait,
  replicationWrite,
  waitFor,
} from "#shared/valkey/replication.ts";
import type { Topology } from "#shared/valkey/topology.ts";

export interface ValkeyOptions {
  /** Called for connection errors. Commands report their own errors. */
  readonly onConnectionError: (error: ValkeyError) => void;
  /**
   * Timeout of a reply in milliseconds, including the time to connect. Default: 5,000. The first command of a cluster
   * client may take two seconds more, to discover the nodes.
   */
  readonly commandTimeoutMs?: number;
  /** More cluster nodes to start from: for example those that an earlier client discovered. */
  readonly knownNodes?: readonly NodeAddress[];
}

const COMMAND_TIMEOUT_MS = 5_000;
/** A connection without a reply for this long is checked before use. The check costs one round trip. */
const MAX_IDLE_MS = 5_000;
/** Timeout of this check. A node that only is slow costs a new client, which is harmless. */
const PROBE_TIMEOUT_MS = 100;

/**
 * Error replies after which a client must be replaced, since its knowledge of the server is out of date. The new client
 * discovers the nodes and the edition again. Every error that a function raises is included: the library may have been
 * replaced by one of another edition.
 */
const STALE_CLIENT_ERROR =
  /^(?:MOVED|ASK|CLUSTERDOWN|LOADING|MASTERDOWN|READONLY|NOAUTH|WRONGPASS)\b|^ERR (?!Function not found)/;

/** Replies of a node that runs, but does not serve its slots. */
const NOT_SERVING = /^(?:CLUSTERDOWN|LOADING|MASTERDOWN)\b/;

/** Returns whether a command failed because its node is down or does not serve. Other nodes may still work. */
export function isUnavailable(error: unknown): boolean {
  return (
    error instanceof UnreachableError || (error instanceof ValkeyError && NOT_SERVING.test(error.message))
  );
}

/** A primary of the deployment. */
export interface ValkeyNode {
  /** `host:port`. */
  readonly name: string;
  /** Sends one command. Rejects with a ValkeyError. */
  call(name: string, ...args: ValkeyArgument[]): Promise<unknown>;
  /** Sends one command with another timeout, in milliseconds. After the timeout, the connection is closed. */
  callWithin(timeoutMs: number, name: string, ...args: ValkeyArgument[]): Promise<unknown>;
}

/**
 * A client of a standalone server or a cluster. All its errors are of class ValkeyError.
 *
 * In a cluster, an unreachable node only fails the commands for its own slots. The client does not reconnect: see
 * `isBroken`.
 */
export class Valkey implements Pipelines {
  /** The timeout of a reply in milliseconds. */
  readonly commandTimeoutMs: number;
  readonly #nodes: Connection | ClusterConnections;
  #isBroken = false;

  constructor(address: ValkeyAddress, options: ValkeyOptions) {
    const { url, cluster } = address;
    this.commandTimeoutMs = options.commandTimeoutMs ?? COMMAND_TIMEOUT_MS;
    const seeds = seedNodes(address);
    const [seed = { host: url.hostname, port: 0 }] = seeds;
    const redis = connectionOptions(address);
    const db = cluster ? 0 : Number(url.pathname.slice(1) || 0);
    const open = (node: NodeAddress, onEnd: () => void): Connection =>
      new Connection(node, {
        redis: { ...redis, db },
        timeoutMs: this.commandTimeoutMs,
        onError: options.onConnectionError,
        onEnd,
      });
    const onLost = (): void => {
      this.#isBroken = true;
    };
    this.#nodes = cluster
      ? new ClusterConnections([...(options.knownNodes ?? []), ...seeds], open, onLost)
      : open(seed, onLost);
  }

  /** Whether the client must be replaced: a node did not reply, a connection was lost, or the server has changed. */
  get isBroken(): boolean {
    return this.#isBroken;
  }

  /** The nodes of the cluster that this client has discovered. Empty for a standalone server. */
  get knownNodes(): readonly NodeAddress[] {
    return this.#nodes instanceof ClusterConnections ? this.#nodes.knownNodes : [];
  }

  pipelined(commands: readonly ValkeyCommand[]): Promise<ValkeyResult[]> {
    return this.#toEachNode(commands, (connection, group) => connection.pipelined(group));
  }

  /**
   * Sends commands as `pipelined` does, then waits on the same connections until replicas have received everything that
   * the commands wrote or found written. A result is a NotReplicatedError if its command was executed, but too few
   * replicas confirmed it in time.
   *
   * `WAIT` covers only the writes of its own connection, and answers at once if there are none. So a write follows the
   * commands of each partition: it also covers earlier writes of other connections. Each node gets one `WAIT`, which
   * delays all later commands of its connection: use a client for these calls only, and make one call at a time.
   */
  replicated(commands: readonly ValkeyCommand[], wait: ReplicationWait): Promise<ValkeyResult[]> {
    return this.#toEachNode(commands, (connection, group) => replicatedOn(connection, group, wait));
  }

  /** Sends one command without keys, or with keys that are not bound to a partition. Rejects with a ValkeyError. */
  call(name: string, ...args: ValkeyArgument[]): Promise<unknown> {
    return this.#noting(async () => (await this.#connectionFor(name, args)).call(name, args));
  }

  /** Sends one command with another timeout, in milliseconds. After the timeout, the connection is closed. */
  callWithin(timeoutMs: number, name: string, ...args: ValkeyArgument[]): Promise<unknown> {
    return this.#noting(async () => (await this.#connectionFor(name, args)).call(name, args, timeoutMs));
  }

  /** Returns the primaries: the standalone server, or those of the cluster that serve slots. */
  async primaries(): Promise<ValkeyNode[]> {
    return (await this.#primaryConnections()).map((connection) => ({
      name: connection.name,
      call: (name, ...args) => this.#noting(() => connection.call(name, args)),
      callWithin: (timeoutMs, name, ...args) => this.#noting(() => connection.call(name, args, timeoutMs)),
    }));
  }

  /**
   * Checks the connections that have been idle for 5 seconds: a thawed process may hold dead ones. A node that does not
   * reply within 100 ms makes the client broken. Without an idle connection, nothing is sent.
   */
  async checkIdleConnections(): Promise<void> {
    const { connections } = this.#nodes instanceof Connection ? { connections: [this.#nodes] } : this.#nodes;
    const idle = connections.filter(({ isOpen, idleMs }) => isOpen && idleMs >= MAX_IDLE_MS);
    const alive = await Promise.all(idle.map((connection) => connection.isAlive(PROBE_TIMEOUT_MS)));
    if (alive.includes(false)) this.#isBroken = true;
  }

  /** Closes all connections. Commands in flight fail, unless the server has already sent their replies. */
  close(): void {
    this.#isBroken = true;
    this.#nodes.close();
  }

  /** Calls `send` once per node, with the commands for it. `send` returns one result per command, and never rejects. */
  async #toEachNode(
    commands: readonly ValkeyCommand[],
    send: (connection: Connection, commands: readonly ValkeyCommand[]) => Promise<ValkeyResult[]>,
  ): Promise<ValkeyResult[]> {
    if (commands.length === 0) return [];
    const results = await this.#routed(commands, send);
    for (const result of results) if (!result.ok) this.#note(result.error);
    return results;
  }

  async #routed(
    commands: readonly ValkeyCommand[],
    send: (connection: Connection, commands: readonly ValkeyCommand[]) => Promise<ValkeyResult[]>,
  ): Promise<ValkeyResult[]> {
    const nodes = this.#nodes;
    if (nodes instanceof Connection) return send(nodes, commands);
    let topology: Topology;
    try {
      topology = await nodes.topology();
    } catch (error) {
      const failure = { ok: false, error: toValkeyError(error) } as const;
      return commands.map(() => failure);
    }
    const connectionOf = (partition: Partition): Connection | undefined => {
      const node = topology.primaryOf(slotOf(partition));
      return node && nodes.to(node);
    };
    const results = new Array<ValkeyResult>(commands.length);
    await Promise.all(
      [...positionsByConnection(commands, connectionOf)].map(async ([connection, positions]) => {
        const group = positions.flatMap((position) => commands[position] ?? []);
        const replies = connection === undefined ? [] : await send(connection, group);
        for (const [index, position] of positions.entries()) results[position] = replies[index] ?? UNSERVED;
      }),
    );
    return results;
  }

  async #connectionFor(name: string, args: readonly ValkeyArgument[]): Promise<Connection> {
    if (this.#nodes instanceof Connection) return this.#nodes;
    const topology = await this.#nodes.topology();
    const slot = new Command(name, [...args]).getSlot();
    if (slot !== null) {
      const node = topology.primaryOf(slot);
      if (node === undefined) throw UNSERVED.error;
      return this.#nodes.to(node);
    }
    const connections = await this.#primaryConnections();
    const connection = connections.find(({ isOpen }) => isOpen) ?? connections[0];
    if (connection === undefined) throw UNSERVED.error;
    return connection;
  }

  async #primaryConnections(): Promise<Connection[]> {
    const nodes = this.#nodes;
    if (nodes instanceof Connection) return [nodes];
    return (await nodes.topology()).primaries.map((node) => nodes.to(node));
  }

  async #noting(send: () => Promise<unknown>): Promise<unknown> {
    try {
      return await send();
    } catch (error) {
      const converted = toValkeyError(error);
      this.#note(converted);
      throw converted;
    }
  }

  /** Records whether the client must be replaced after an error. */
  #note(error: Error): void {
    if (error instanceof UnreachableError || STALE_CLIENT_ERROR.test(error.message)) this.#isBroken = true;
  }
}

const UNSERVED = {
  ok: false,
  error: new UnreachableError("no primary of the cluster serves this slot"),
} as const;

async function replicatedOn(
  connection: Connection,
  commands: readonly ValkeyCommand[],
  wait: ReplicationWait,
): Promise<ValkeyResult[]> {
  // Up to the WAIT, nothing is awaited: it directly follows the commands on their connection.
  const groups = [...Map.groupBy(commands.entries(), ([, { partition }]) => partition)].map(
    ([partition, entries]) => {
      const group = [...entries.map(([, sent]) => sent), replicationWrite(partition)];
      return { partition, entries, results: connection.pipelined(group) };
    },
  );
  const [first] = groups;
  if (first === undefined) return [];
  const [waited] = await connection.pipelined([waitFor(first.partition, wait)]);
  const results = new Array<ValkeyResult>(commands.length);
  for (const group of groups) {
    const confirmed = confirmedResults(await group.results, waited, wait);
    for (const [index, [position]] of group.entries.entries()) {
      const result = confirmed[index];
      if (result !== undefined) results[position] = result;
    }
  }
  return results;
}

function toValkeyError(error: unknown): ValkeyError {
  return error instanceof ValkeyError ? error : new ValkeyError(messageOf(error));
}

function positionsByConnection(
  commands: readonly ValkeyCommand[],
  connectionOf: (partition: Partition) => Connection | undefined,
): Map<Connection | undefined, number[]> {
  const connections = new Map<Partition, Connection | undefined>();
  const groups = new Map<Connection | undefined, number[]>();
  for (const [position, { partition }] of commands.entries()) {
    if (!connections.has(partition)) connections.set(partition, connectionOf(partition));
    const connection = connections.get(partition);
    const group = groups.get(connection);
    if (group === undefined) groups.set(connection, [position]);
    else group.push(position);
  }
  return groups;
}
