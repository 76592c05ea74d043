import { Cluster, type ClusterOptions, Redis, type RedisOptions } from "iovalkey";
import type { Partition } from "#shared/ids.ts";
import type { Pipelines, ValkeyArgument, ValkeyCommand, ValkeyResult } from "#shared/valkey/command.ts";

/** Where the server is, and whether it is a cluster. */
export interface ValkeyAddress {
  /** `redis://` or `rediss://`, with user and password where the server wants them. */
  readonly url: URL;
  readonly cluster: boolean;
}

/**
 * Errors that a node raises for a client that reaches the wrong node, or reaches it at the wrong time,
 * are left to iovalkey, which follows MOVED and ASK; everything else comes back as a result.
 */
const CONNECTION: RedisOptions = {
  connectTimeout: 3_000,
  commandTimeout: 10_000,
  maxRetriesPerRequest: 3,
  // A resent FCALL would be harmless, but its reply would describe the second call and not the first.
  autoResendUnfulfilledCommands: false,
  // Autopipelining routes an FCALL by its first argument, which is no key.
  enableAutoPipelining: false,
};

const CLUSTER: ClusterOptions = {
  enableAutoPipelining: false,
  slotsRefreshTimeout: 2_000,
  // ElastiCache's certificates name its hosts: do not resolve them to addresses first.
  dnsLookup: (address, callback) => callback(null, address),
};

/** One primary of the deployment. */
export interface ValkeyNode {
  /** Rejects with what the server or the client raised. */
  call(name: string, ...args: ValkeyArgument[]): Promise<unknown>;
}

/** A connection to Valkey, standalone or cluster. */
export class Valkey implements Pipelines {
  readonly #client: Redis | Cluster;

  constructor(address: ValkeyAddress, onConnectionError: (error: Error) => void) {
    const { url } = address;
    const options: RedisOptions = {
      ...CONNECTION,
      ...(url.username === "" ? {} : { username: decodeURIComponent(url.username) }),
      ...(url.password === "" ? {} : { password: decodeURIComponent(url.password) }),
      ...(url.protocol === "rediss:" ? { tls: {} } : {}),
    };
    const node = { host: url.hostname.replace(/^\[|\]$/g, ""), port: Number(url.port || 6379) };
    this.#client = address.cluster
      ? new Cluster([node], { ...CLUSTER, redisOptions: options })
      : new Redis({ ...options, ...node, db: Number(url.pathname.slice(1) || 0) });
    // Without a listener a lost connection would end the process; commands report it on their own.
    this.#client.on("error", onConnectionError);
  }

  async pipelined(commands: readonly ValkeyCommand[]): Promise<ValkeyResult[]> {
    const results = new Array<ValkeyResult>(commands.length);
    await Promise.all(
      [...positionsByPartition(commands).values()].map(async (positions) => {
        const replies = await this.#exec(positions.map((position) => lineOf(commands[position])));
        for (const [index, position] of positions.entries()) {
          const [error, value] = replies[index] ?? [new Error("the pipeline gave no reply for this command")];
          results[position] = error ? { ok: false, error } : { ok: true, value };
        }
      }),
    );
    return results;
  }

  /** One command without keys, or with keys of no partition. Rejects with what the server or client raised. */
  call(name: string, ...args: ValkeyArgument[]): Promise<unknown> {
    return this.#client.call(name, args);
  }

  /** The primaries: the one server, or the cluster's as the client knows them now. */
  async primaries(): Promise<ValkeyNode[]> {
    const client = this.#client;
    if (client instanceof Redis) return [nodeOf(client)];
    if (client.nodes("master").length === 0) await client.ping();
    return client.nodes("master").map(nodeOf);
  }

  /** Runs one command on every primary, all at once; rejects if any of them fails. */
  async onEveryPrimary(name: string, ...args: ValkeyArgument[]): Promise<unknown[]> {
    return Promise.all((await this.primaries()).map((node) => node.call(name, ...args)));
  }

  /** Closes every connection at once; commands under way fail. */
  close(): void {
    this.#client.disconnect();
  }

  async #exec(lines: (string | number | Buffer)[][]): Promise<[error: Error | null, value?: unknown][]> {
    try {
      return (await this.#client.pipeline(lines).exec()) ?? [];
    } catch (error) {
      const failure = error instanceof Error ? error : new Error(String(error));
      return lines.map(() => [failure]);
    }
  }
}

function nodeOf(client: Redis): ValkeyNode {
  return { call: (name, ...args) => client.call(name, args) };
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
