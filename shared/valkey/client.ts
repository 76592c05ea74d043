import { Cluster, type ClusterOptions, Redis, type RedisOptions, ReplyError } from "iovalkey";
import type { Pipelines, ValkeyArgument, ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";
import type { Partition } from "#shared/contract/ids.ts";
import { slotOf } from "#shared/contract/partitions.ts";
import { messageOf, ValkeyError } from "#shared/errors.ts";
import type { ValkeyAddress } from "#shared/valkey/address.ts";
import { connectionOptions } from "#shared/valkey/authentication.ts";
import { type CommandSender, type Destination, sendPipeline } from "#shared/valkey/pipeline.ts";
import {
  confirmedResults,
  type ReplicationWait,
  replicationWrite,
  waitFor,
} from "#shared/valkey/replication.ts";

export interface ValkeyOptions {
  /** Called for connection errors. Commands report their own errors. */
  readonly onConnectionError: (error: ValkeyError) => void;
  /** Timeout of a reply in milliseconds, including the time to connect. Default: 5,000. */
  readonly commandTimeoutMs?: number;
  /** More cluster nodes to connect to, as `host:port`: for example those that an earlier client discovered. */
  readonly knownNodes?: readonly string[];
}

const COMMAND_TIMEOUT_MS = 5_000;

/**
 * Options of a client that fails fast: it does not reconnect, resend or queue commands. After a lost connection, commands
 * fail at once, and the caller creates a new client.
 */
const CONNECTION: RedisOptions = {
  maxRetriesPerRequest: 0,
  retryStrategy: () => null,
  // Resending an FCALL is harmless, but its reply would describe the second call and not the first.
  autoResendUnfulfilledCommands: false,
  // Autopipelining routes an FCALL by its first argument, which is not a key.
  enableAutoPipelining: false,
};

/**
 * Options of a cluster client that follows no redirections. While a slot migrates, iovalkey would redirect a whole
 * pipeline to the new node. Keys that have not moved yet would then read as missing: a missing record, or an execution
 * without edges. Instead, MOVED and ASK are errors, and the message is retried.
 */
const CLUSTER: ClusterOptions = {
  enableAutoPipelining: false,
  slotsRefreshTimeout: 2_000,
  clusterRetryStrategy: () => null,
  maxRedirections: 0,
  // ElastiCache's certificates are issued for host names: do not resolve them to addresses first.
  dnsLookup: (address, callback) => callback(null, address),
};

/**
 * Error replies after which a client must be replaced, since its knowledge of the server is out of date. The new client
 * discovers the nodes and the edition again. Every error that a function raises is included: the library may have been
 * replaced by one of another edition.
 */
const STALE_CLIENT_ERROR =
  /^(?:MOVED|ASK|CLUSTERDOWN|LOADING|MASTERDOWN|READONLY|NOAUTH|WRONGPASS)\b|^ERR (?!Function not found)/;

/** iovalkey's messages if no cluster node is reachable. The cause is only in its "node error" event. */
const NO_REACHABLE_NODE = /None of startup nodes is available|Failed to refresh slots cache/;

/** A primary of the deployment. */
export interface ValkeyNode {
  /** `host:port`. */
  readonly name: string;
  /** Sends one command. Rejects with a ValkeyError. */
  call(name: string, ...args: ValkeyArgument[]): Promise<unknown>;
}

/** A client of a standalone server or a cluster. All its errors are of class ValkeyError. */
export class Valkey implements Pipelines {
  readonly #client: Redis | Cluster;
  readonly #timeoutMs: number;
  /** `host:port`, for messages. It never contains a password. */
  readonly #host: string;
  #isBroken = false;
  #nodeError = "";

  constructor(address: ValkeyAddress, options: ValkeyOptions) {
    const { url } = address;
    this.#timeoutMs = options.commandTimeoutMs ?? COMMAND_TIMEOUT_MS;
    this.#host = url.host;
    const connection: RedisOptions = { ...CONNECTION, ...connectionOptions(address) };
    const node = { host: url.hostname.replace(/^\[|\]$/g, ""), port: Number(url.port || 6379) };
    this.#client = address.cluster
      ? new Cluster([node, ...(options.knownNodes ?? [])], { ...CLUSTER, redisOptions: connection })
      : new Redis({ ...connection, ...node, db: Number(url.pathname.slice(1) || 0) });
    // Without a listener, a lost connection would end the process.
    this.#client.on("error", (error) => options.onConnectionError(this.#toValkeyError(error)));
    this.#client.on("node error", (error) => {
      this.#nodeError = `: ${messageOf(error)}`;
    });
    this.#client.on("end", () => {
      this.#isBroken = true;
    });
  }

  /** Whether the client must be replaced: a reply timed out, the connection was lost, or the server has changed. */
  get isBroken(): boolean {
    return this.#isBroken;
  }

  get commandTimeoutMs(): number {
    return this.#timeoutMs;
  }

  /** The nodes of the cluster that this client has discovered, as `host:port`. Empty for a standalone server. */
  get knownNodes(): string[] {
    return this.#client instanceof Cluster
      ? this.#client.nodes("all").map(({ options }) => `${options.host}:${options.port}`)
      : [];
  }

  async pipelined(commands: readonly ValkeyCommand[]): Promise<ValkeyResult[]> {
    if (this.#client instanceof Redis) return this.#exec({ redis: this.#client }, commands);
    // A cluster needs one pipeline per slot.
    const results = new Array<ValkeyResult>(commands.length);
    await Promise.all(
      [...positionsByPartition(commands)].map(async ([partition, positions]) => {
        const group = positions.flatMap((position) => commands[position] ?? []);
        const partitionResults = await this.#exec({ slot: slotOf(partition) }, group);
        for (const [index, result] of partitionResults.entries()) results[positions[index] ?? -1] = result;
      }),
    );
    return results;
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
  async replicated(commands: readonly ValkeyCommand[], wait: ReplicationWait): Promise<ValkeyResult[]> {
    const client = this.#client;
    try {
      // Until it is connected, a cluster client queues commands and does not know their nodes.
      if (client instanceof Cluster && client.status !== "ready") await this.call("ping");
    } catch (error) {
      return commands.map(() => ({ ok: false, error: this.#toValkeyError(error) }));
    }
    // From here to the last WAIT, nothing is awaited: each WAIT directly follows the commands on their connection.
    const groups = [...positionsByPartition(commands)].map(([partition, positions]) => {
      const destination: { slot?: number; redis?: Redis } =
        client instanceof Redis ? { redis: client } : { slot: slotOf(partition) };
      const group = positions.flatMap((position) => commands[position] ?? []);
      const results = this.#exec(destination, [...group, replicationWrite(partition)]);
      // The cluster client has set the node to which it sent the commands.
      return { partition, positions, node: destination.redis, results };
    });
    const waits = new Map<Redis, Promise<ValkeyResult[]>>();
    for (const { node, partition } of groups) {
      if (node === undefined || waits.has(node)) continue;
      waits.set(node, this.#exec({ redis: node }, [waitFor(partition, wait)], node));
    }
    const results = new Array<ValkeyResult>(commands.length);
    for (const group of groups) {
      const [waited] = (group.node === undefined ? undefined : await waits.get(group.node)) ?? [];
      const confirmed = confirmedResults(await group.results, waited, wait);
      for (const [index, position] of group.positions.entries()) {
        const result = confirmed[index];
        if (result !== undefined) results[position] = result;
      }
    }
    return results;
  }

  /** Sends one command without keys, or with keys that are not bound to a partition. Rejects with a ValkeyError. */
  call(name: string, ...args: ValkeyArgument[]): Promise<unknown> {
    return this.#withTimeout(() => this.#client.call(name, args));
  }

  /** Returns the primaries: the standalone server, or those of the cluster that the client has discovered. */
  async primaries(): Promise<ValkeyNode[]> {
    const client = this.#client;
    if (client instanceof Redis) return [this.#nodeOf(client)];
    // Until it has connected, the client knows only the node of its address.
    if (client.status !== "ready") await this.call("ping");
    return client.nodes("master").map((node) => this.#nodeOf(node));
  }

  /** Closes all connections. Commands in flight fail, unless the server has already sent their replies. */
  close(): void {
    this.#isBroken = true;
    this.#client.disconnect();
  }

  #nodeOf(node: Redis): ValkeyNode {
    return {
      name: `${node.options.host}:${node.options.port}`,
      call: (name, ...args) => this.#withTimeout(() => node.call(name, args)),
    };
  }

  async #exec(
    destination: Destination,
    commands: readonly ValkeyCommand[],
    sender: CommandSender = this.#client,
  ): Promise<ValkeyResult[]> {
    if (commands.length === 0) return [];
    try {
      const results = await this.#withTimeout(() => sendPipeline(sender, destination, commands));
      return results.map((result) =>
        result.ok ? result : { ok: false, error: this.#toValkeyError(result.error) },
      );
    } catch (error) {
      const failure = { ok: false, error: this.#toValkeyError(error) } as const;
      return commands.map(() => failure);
    }
  }

  /**
   * Applies one timeout to everything that `send` sends, instead of one timer per command. After a timeout the client must
   * be replaced. Commands in flight to other nodes of a cluster continue.
   */
  async #withTimeout<T>(send: () => Promise<T>): Promise<T> {
    const { promise: timedOut, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(() => {
      reject(new Error(`no reply within ${this.#timeoutMs} ms`));
      // Close a standalone client, so that later commands fail at once. In a cluster, other nodes may still reply.
      if (this.#client instanceof Redis) this.close();
    }, this.#timeoutMs);
    try {
      return await Promise.race([send(), timedOut]);
    } catch (error) {
      throw this.#toValkeyError(error);
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Converts an error for the caller, and records whether the client must be replaced. An error reply keeps its text; a
   * connection error also names the server. iovalkey's error is not kept as the cause: it contains the command, with a
   * password or payload in it, and errors are logged.
   */
  #toValkeyError(thrown: unknown): ValkeyError {
    if (thrown instanceof ValkeyError) return thrown;
    if (thrown instanceof ReplyError) {
      if (STALE_CLIENT_ERROR.test(messageOf(thrown))) this.#isBroken = true;
      return new ValkeyError(messageOf(thrown));
    }
    this.#isBroken = true;
    const reason = messageOf(thrown);
    const cause = NO_REACHABLE_NODE.test(reason) ? this.#nodeError : "";
    return new ValkeyError(`Valkey at ${this.#host}: ${reason}${cause}`);
  }
}

function positionsByPartition(commands: readonly ValkeyCommand[]): Map<Partition, number[]> {
  const groups = new Map<Partition, number[]>();
  for (const [position, { partition }] of commands.entries()) {
    const group = groups.get(partition);
    if (group === undefined) groups.set(partition, [position]);
    else group.push(position);
  }
  return groups;
}
