import { Redis } from "iovalkey";
import { ROUTER } from "#bench/flows.ts";
import { startValkey, type ValkeyServer } from "#local/valkey-server.ts";
import { PARTITION_CONFIG_KEY } from "#shared/contract/keys.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";

/** Keys per pipeline when a dataset is saved or restored. */
const CHUNK = 2_000;
/** Long enough for the submission of large flows. */
const COMMAND_TIMEOUT_MS = 120_000;

/** All keys of a server in the format of DUMP. */
export interface Dataset {
  readonly entries: readonly { readonly key: string; readonly dump: Buffer }[];
}

export interface CommandTime {
  readonly calls: number;
  readonly micros: number;
}

/** A Valkey server for one benchmark, with the library loaded. */
export class BenchServer implements AsyncDisposable {
  readonly url: URL;
  /** To submit flows and to check their end states. */
  readonly valkey: Valkey;
  /** The plain client library, for commands that Sluice does not use. */
  readonly client: Redis;
  readonly #server: ValkeyServer;

  private constructor(server: ValkeyServer) {
    this.#server = server;
    this.url = server.url;
    this.valkey = new Valkey(
      { url: server.url, cluster: false },
      { onConnectionError: raise, commandTimeoutMs: COMMAND_TIMEOUT_MS },
    );
    this.client = new Redis({ host: server.url.hostname, port: server.port });
  }

  static async start(): Promise<BenchServer> {
    const server = new BenchServer(await startValkey());
    await ensureLibrary(server.valkey);
    // Otherwise every function logs a warning at its start that the partition count is not recorded.
    await server.client.hset(PARTITION_CONFIG_KEY, "num_flow_partitions", ROUTER.numFlowPartitions);
    return server;
  }

  async version(): Promise<string> {
    return /valkey_version:(\S+)/.exec(await this.client.info("server"))?.[1] ?? "unknown";
  }

  /** Saves all keys, to run the same flow several times. */
  async save(): Promise<Dataset> {
    const keys: string[] = [];
    for await (const page of this.client.scanStream({ count: CHUNK })) {
      if (Array.isArray(page)) keys.push(...page.map(String));
    }
    const entries: { key: string; dump: Buffer }[] = [];
    for (let start = 0; start < keys.length; start += CHUNK) {
      const chunk = keys.slice(start, start + CHUNK);
      const pipeline = this.client.pipeline();
      for (const key of chunk) pipeline.dumpBuffer(key);
      for (const [index, [error, dump]] of ((await pipeline.exec()) ?? []).entries()) {
        if (!Buffer.isBuffer(dump)) throw error ?? new TypeError("DUMP gave no bytes");
        entries.push({ key: chunk[index] ?? "", dump });
      }
    }
    return { entries };
  }

  /** Replaces all keys with a saved dataset. Loaded functions stay. */
  async restore({ entries }: Dataset): Promise<void> {
    await this.client.flushdb("SYNC");
    for (let start = 0; start < entries.length; start += CHUNK) {
      const pipeline = this.client.pipeline();
      for (const { key, dump } of entries.slice(start, start + CHUNK)) pipeline.restore(key, 0, dump);
      for (const [error] of (await pipeline.exec()) ?? []) if (error) throw error;
    }
  }

  async resetCommandTimes(): Promise<void> {
    await this.client.config("RESETSTAT");
  }

  /** The server's time for a command since the reset, including the commands that it calls. */
  async commandTime(name: string): Promise<CommandTime> {
    const stats = await this.client.info("commandstats");
    const [, calls, micros] = new RegExp(`cmdstat_${name}:calls=(\\d+),usec=(\\d+)`).exec(stats) ?? [];
    return { calls: Number(calls ?? 0), micros: Number(micros ?? 0) };
  }

  /** CPU time of the server's main thread in microseconds; 0 if the platform does not report it. */
  async processorMicros(): Promise<number> {
    const info = await this.client.info("cpu");
    let seconds = 0;
    for (const [, value] of info.matchAll(/used_cpu_(?:user|sys)_main_thread:([\d.]+)/g))
      seconds += Number(value);
    return seconds * 1_000_000;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.valkey.close();
    this.client.disconnect();
    await this.#server.stop();
  }
}

export function raise(error: Error): never {
  throw error;
}
