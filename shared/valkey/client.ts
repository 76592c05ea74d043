import { Cluster, type ClusterOptions, Redis, type RedisOptions, ReplyError } from "iovalkey";
import type { Pipelines, ValkeyArgument, ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";
import type { Partition } from "#shared/contract/ids.ts";
import { slotOf } from "#shared/contract/partitions.ts";
import { messageOf, ValkeyError } from "#shared/errors.ts";
import type { ValkeyAddress } from "#shared/valkey/address.ts";
import { connectionOptions } from "#shared/valkey/authentication.ts";
import { type Destination, sendPipeline } from "#shared/valkey/pipeline.ts";

export interface ValkeyOptions {
  /** Hears of connection errors; commands report their own. */
  readonly onConnectionError: (error: ValkeyError) => void;
  /** Milliseconds within which a reply must come, connecting included. */
  readonly commandTimeoutMs?: number;
  /** Cluster nodes, as `host:port`, to ask besides the address: those that an earlier client knew. */
  readonly knownNodes?: readonly string[];
}

const COMMAND_TIMEOUT_MS = 5_000;

/**
 * A client that fails fast: it neither reconnects nor repeats what it sent. A lost connection ends it, and who
 * wants to go on makes a new one; until then a command fails at once, and waits in no queue.
 */
const CONNECTION: RedisOptions = {
  maxRetriesPerRequest: 0,
  retryStrategy: () => null,
  // A resent FCALL would be harmless, but its reply would describe the second call and not the first.
  autoResendUnfulfilledCommands: false,
  // Autopipelining routes an FCALL by its first argument, which is no key.
  enableAutoPipelining: false,
};

/**
 * No redirection is followed. While a slot moves, iovalkey would send a pipeline of which some keys have moved and
 * others have not to the new node as a whole, where what has not moved yet reads as absent: a record that is missing,
 * an execution without edges. A MOVED or ASK is a fault here, and the message comes again.
 */
const CLUSTER: ClusterOptions = {
  enableAutoPipelining: false,
  slotsRefreshTimeout: 2_000,
  clusterRetryStrategy: () => null,
  maxRedirections: 0,
  // ElastiCache's certificates name its hosts: do not resolve them to addresses first.
  dnsLookup: (address, callback) => callback(null, address),
};

/**
 * Replies that say: this is not the server that the client takes it for, or not any more. Any error that a function
 * raises is one of them: its library may have been replaced by one of another edition. A client that heard one is not
 * used again, so that the next one asks anew who serves what, and in which edition.
 */
const WRONG_SERVER =
  /^(?:MOVED|ASK|CLUSTERDOWN|LOADING|MASTERDOWN|READONLY|NOAUTH|WRONGPASS)\b|^ERR (?!Function not found)/;

/** What iovalkey says where no node of a cluster can be asked. Why, it tells by an event. */
const NO_NODE = /None of startup nodes is available|Failed to refresh slots cache/;

/** One primary of the deployment. */
export interface ValkeyNode {
  /** `host:port`. */
  readonly name: string;
  /** Rejects with what the server or the client raised. */
  call(name: string, ...args: ValkeyArgument[]): Promise<unknown>;
}

/** A connection to Valkey, standalone or cluster. */
export class Valkey implements Pipelines {
  readonly #client: Redis | Cluster;
  readonly #timeoutMs: number;
  /** `host:port`, for messages: never with a password. */
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
    // Without a listener a lost connection would end the process.
    this.#client.on("error", (error) => options.onConnectionError(this.#noticed(error)));
    this.#client.on("node error", (error) => {
      this.#nodeError = `: ${messageOf(error)}`;
    });
    this.#client.on("end", () => {
      this.#isBroken = true;
    });
  }

  /** Whether a reply was late, the connection was lost, or the server is not what it was: use a new client. */
  get isBroken(): boolean {
    return this.#isBroken;
  }

  /** The cluster's nodes as this client knew them last, as `host:port`. None for a standalone server. */
  get knownNodes(): string[] {
    return this.#client instanceof Cluster
      ? this.#client.nodes("all").map(({ options }) => `${options.host}:${options.port}`)
      : [];
  }

  async pipelined(commands: readonly ValkeyCommand[]): Promise<ValkeyResult[]> {
    if (this.#client instanceof Redis) return this.#exec({ redis: this.#client }, commands);
    // A cluster takes a pipeline for each slot.
    const results = new Array<ValkeyResult>(commands.length);
    await Promise.all(
      [...positionsByPartition(commands)].map(async ([partition, positions]) => {
        const group = positions.flatMap((position) => commands[position] ?? []);
        const found = await this.#exec({ slot: slotOf(partition) }, group);
        for (const [index, result] of found.entries()) results[positions[index] ?? -1] = result;
      }),
    );
    return results;
  }

  /** One command without keys, or with keys of no partition. Rejects with what the server or client raised. */
  call(name: string, ...args: ValkeyArgument[]): Promise<unknown> {
    return this.#within(() => this.#client.call(name, args));
  }

  /** The primaries: the one server, or the cluster's as the client knows them now. */
  async primaries(): Promise<ValkeyNode[]> {
    const client = this.#client;
    if (client instanceof Redis) return [this.#nodeOf(client)];
    // A client that has only begun to connect knows no more than the node of its address.
    if (client.status !== "ready") await this.call("ping");
    return client.nodes("master").map((node) => this.#nodeOf(node));
  }

  /** Closes every connection at once; commands under way fail. */
  close(): void {
    this.#isBroken = true;
    this.#client.disconnect();
  }

  #nodeOf(node: Redis): ValkeyNode {
    return {
      name: `${node.options.host}:${node.options.port}`,
      call: (name, ...args) => this.#within(() => node.call(name, args)),
    };
  }

  async #exec(destination: Destination, commands: readonly ValkeyCommand[]): Promise<ValkeyResult[]> {
    if (commands.length === 0) return [];
    try {
      const results = await this.#within(() => sendPipeline(this.#client, destination, commands));
      return results.map((result) =>
        result.ok ? result : { ok: false, error: this.#noticed(result.error) },
      );
    } catch (error) {
      const failure = { ok: false, error: this.#noticed(error) } as const;
      return commands.map(() => failure);
    }
  }

  /**
   * One deadline for all that is sent at once, rather than a timer for each command. A late reply breaks the client;
   * what is under way to other nodes of a cluster goes on.
   */
  async #within<T>(send: () => Promise<T>): Promise<T> {
    const { promise: late, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(() => {
      reject(new Error(`no reply within ${this.#timeoutMs} ms`));
      // The one server is silent: what is asked next need not wait for it. Of a cluster only one node may be.
      if (this.#client instanceof Redis) this.close();
    }, this.#timeoutMs);
    try {
      return await Promise.race([send(), late]);
    } catch (error) {
      throw this.#noticed(error);
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * The error as callers get it: a reply's text as it is, a fault of the connection with the server's name. What
   * iovalkey raises carries the command, a password or a payload in it, and errors end in logs: its text is enough.
   */
  #noticed(thrown: unknown): ValkeyError {
    if (thrown instanceof ValkeyError) return thrown;
    if (thrown instanceof ReplyError) {
      if (WRONG_SERVER.test(messageOf(thrown))) this.#isBroken = true;
      return new ValkeyError(messageOf(thrown));
    }
    this.#isBroken = true;
    const reason = messageOf(thrown);
    const cause = NO_NODE.test(reason) ? this.#nodeError : "";
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
