import { Redis } from "iovalkey";
import { ROUTER } from "#bench/scenes.ts";
import { startValkey, type ValkeyServer } from "#local/valkey-server.ts";
import { PARTITION_CONFIG_KEY } from "#shared/contract/keys.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";

/** Keys in one pipeline while a dataset is kept or put back. */
const CHUNK = 2_000;
/** Setting the benchFlow may take its time. */
const COMMAND_TIMEOUT_MS = 120_000;

/** Every key of a server, as DUMP gives it. */
export interface Dataset {
  readonly entries: readonly { readonly key: string; readonly dump: Buffer }[];
}

export interface CommandTime {
  readonly calls: number;
  readonly micros: number;
}

/** A Valkey of a benchmark's own, with our library. */
export class BenchServer implements AsyncDisposable {
  readonly url: URL;
  /** For setting scenes, and for looking at what came of them. */
  readonly valkey: Valkey;
  /** The client library itself, for what is no part of our code. */
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
    // Else every function that starts warns that it is not recorded.
    await server.client.hset(PARTITION_CONFIG_KEY, "num_flow_partitions", ROUTER.numFlowPartitions);
    return server;
  }

  async version(): Promise<string> {
    return /valkey_version:(\S+)/.exec(await this.client.info("server"))?.[1] ?? "unknown";
  }

  /** Keeps all keys, to play the same benchFlow more than once. */
  async keep(): Promise<Dataset> {
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

  /** Puts back what was kept, and nothing else is there then. Functions stay. */
  async putBack({ entries }: Dataset): Promise<void> {
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

  /** What the server has spent on a command since the reset, what the command itself calls included. */
  async commandTime(name: string): Promise<CommandTime> {
    const stats = await this.client.info("commandstats");
    const [, calls, micros] = new RegExp(`cmdstat_${name}:calls=(\\d+),usec=(\\d+)`).exec(stats) ?? [];
    return { calls: Number(calls ?? 0), micros: Number(micros ?? 0) };
  }

  /** Processor time of the server's main thread so far, in microseconds. 0 where the platform does not tell. */
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
