import { Cluster, type ClusterOptions, Redis, type RedisOptions, ReplyError } from "iovalkey";
import { messageOf, ValkeyError } from "#shared/errors.ts";
import type { Partition } from "#shared/ids.ts";
import type { Pipelines, ValkeyArgument, ValkeyCommand, ValkeyResult } from "#shared/valkey/command.ts";

/** Where the server is, and whether it is a cluster. */
export interface ValkeyAddress {
  /** `redis://` or `rediss://`, with user and password where the server wants them. */
  readonly url: URL;
  readonly cluster: boolean;
}

export interface ValkeyOptions {
  /** Hears of connection faults; commands report their own. */
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
  connectTimeout: 2_000,
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
/** What iovalkey says of a whole pipeline for the sake of one command whose keys are in two slots. */
const CROSS_SLOT = /belong to the same slot/;

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

  constructor(address: ValkeyAddress, options: ValkeyOptions) {
    const { url } = address;
    this.#timeoutMs = options.commandTimeoutMs ?? COMMAND_TIMEOUT_MS;
    this.#host = url.host;
    const connection: RedisOptions = {
      ...CONNECTION,
      ...(url.username === "" ? {} : { username: decodeURIComponent(url.username) }),
      ...(url.password === "" ? {} : { password: decodeURIComponent(url.password) }),
      ...(url.protocol === "rediss:" ? { tls: {} } : {}),
    };
    const node = { host: url.hostname.replace(/^\[|\]$/g, ""), port: Number(url.port || 6379) };
    this.#client = address.cluster
      ? new Cluster([node, ...(options.knownNodes ?? [])], { ...CLUSTER, redisOptions: connection })
      : new Redis({ ...connection, ...node, db: Number(url.pathname.slice(1) || 0) });
    // Without a listener a lost connection would end the process.
    this.#client.on("error", (error) => options.onConnectionError(this.#noticed(error)));
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
    const results = new Array<ValkeyResult>(commands.length);
    await Promise.all(
      [...positionsByPartition(commands).values()].map(async (positions) => {
        const replies = await this.#exec(positions.map((position) => lineOf(commands[position])));
        for (const [index, position] of positions.entries()) {
          const [error, value] = replies[index] ?? [new Error("the pipeline gave no reply for this command")];
          results[position] = error ? { ok: false, error: this.#noticed(error) } : { ok: true, value };
        }
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

  async #exec(lines: (string | number | Buffer)[][]): Promise<[error: Error | null, value?: unknown][]> {
    try {
      return (await this.#within(() => this.#client.pipeline(lines).exec())) ?? [];
    } catch (error) {
      if (lines.length > 1 && CROSS_SLOT.test(messageOf(error))) {
        // One bad command must not fail the others of its partition.
        return (await Promise.all(lines.map((line) => this.#exec([line])))).flat();
      }
      return lines.map(() => [error instanceof Error ? error : new Error(String(error))]);
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
    if (thrown instanceof ReplyError || CROSS_SLOT.test(messageOf(thrown))) {
      if (WRONG_SERVER.test(messageOf(thrown))) this.#isBroken = true;
      return new ValkeyError(messageOf(thrown));
    }
    this.#isBroken = true;
    return new ValkeyError(`Valkey at ${this.#host}: ${messageOf(thrown)}`);
  }
}

function lineOf(command: ValkeyCommand | undefined): (string | number | Buffer)[] {
  return command === undefined ? [] : [command.name, ...command.args];
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
