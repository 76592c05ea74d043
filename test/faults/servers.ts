/** The Valkey servers of a rig, and what may be done to them. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Redis } from "iovalkey";
import { HOST, launch } from "#local/valkey-process.ts";
import {
  findValkeyServer,
  startValkey,
  startValkeyCluster,
  type ValkeyCluster,
  type ValkeyServer,
} from "#local/valkey-server.ts";

/** What a rig needs to know of its servers. */
export interface Servers extends AsyncDisposable {
  readonly isCluster: boolean;
  readonly url: URL;
  readonly ports: readonly number[];
  /** As `host:port`. */
  readonly nodes: readonly string[];
  /** Lets every server tell its clients that it is to be found at these ports: the proxies', in the same order. */
  announce(ports: readonly number[]): Promise<void>;
}

const POLL_MS = 20;
const DEADLINE_MS = 30_000;

/** Asks again and again until it holds; a cluster tells nobody when it has agreed on something. */
export async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + DEADLINE_MS;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`${what} did not come about within ${DEADLINE_MS} ms`);
    await sleep(POLL_MS);
  }
}

/** One server, which can be killed and started again on its port with what it has written to its append-only file. */
export class Standalone implements Servers {
  readonly isCluster = false;
  readonly url: URL;
  readonly ports: readonly number[];
  readonly nodes: readonly string[] = [];
  readonly #folder: string | undefined;
  #server: Pick<ValkeyServer, "pid" | "stop">;

  private constructor(server: ValkeyServer, folder: string | undefined) {
    this.url = server.url;
    this.ports = [server.port];
    this.#server = server;
    this.#folder = folder;
  }

  static async start(): Promise<Standalone> {
    return new Standalone(await startValkey(), undefined);
  }

  /** Every write is on the disk before it is answered. */
  static async persistent(): Promise<Standalone> {
    const folder = await mkdtemp(join(tmpdir(), "sluice-faults-"));
    try {
      return new Standalone(await startValkey({ extraArgs: persistence(folder) }), folder);
    } catch (error) {
      await rm(folder, { recursive: true, force: true });
      throw error;
    }
  }

  /** SIGKILL, and the same server again. */
  async restart(): Promise<void> {
    if (this.#folder === undefined) throw new Error("a server without persistence would come back empty");
    process.kill(this.#server.pid, "SIGKILL");
    await this.#server.stop();
    const [port = 0] = this.ports;
    const started = await launch(findValkeyServer(), port, persistence(this.#folder));
    if (!started.ok) throw new Error(`the server did not come back:\n${started.log}`);
    this.#server = started.server;
  }

  announce(): Promise<void> {
    return Promise.resolve();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.stop();
    if (this.#folder !== undefined) await rm(this.#folder, { recursive: true, force: true });
  }
}

function persistence(folder: string): string[] {
  return ["--dir", folder, "--appendonly", "yes", "--appendfsync", "always"];
}

/** A cluster, with a connection to each node of its own. */
export class ClusterServers implements Servers {
  readonly isCluster = true;
  readonly url: URL;
  readonly ports: readonly number[];
  readonly nodes: readonly string[];
  readonly clients: readonly Redis[];
  readonly #cluster: ValkeyCluster;

  private constructor(cluster: ValkeyCluster) {
    this.#cluster = cluster;
    this.url = cluster.url;
    this.ports = cluster.nodes.map(({ port }) => port);
    this.nodes = this.ports.map((port) => `${HOST}:${port}`);
    this.clients = this.ports.map((port) => {
      const client = new Redis({ host: HOST, port, lazyConnect: true, retryStrategy: () => null });
      // A node is killed on purpose; who asks it then gets an error of his own.
      client.on("error", () => undefined);
      return client;
    });
  }

  static async start(replicas: number): Promise<ClusterServers> {
    const extraArgs = ["--cluster-node-timeout", "1000", "--repl-ping-replica-period", "1"];
    return new ClusterServers(await startValkeyCluster({ primaries: 3, replicas, extraArgs }));
  }

  /** SIGKILL for one node. */
  async kill(node: number): Promise<void> {
    const server = this.#cluster.nodes[node];
    if (server === undefined) throw new RangeError(`the cluster has no node ${node}`);
    process.kill(server.pid, "SIGKILL");
    await server.stop();
  }

  /** A command to one node. */
  ask(node: number, name: string, ...args: (string | number)[]): Promise<unknown> {
    const client = this.clients[node];
    if (client === undefined) throw new RangeError(`the cluster has no node ${node}`);
    return client.call(name, args);
  }

  async announce(ports: readonly number[]): Promise<void> {
    await Promise.all(
      ports.map((port, node) => this.ask(node, "CONFIG", "SET", "cluster-announce-port", port)),
    );
    await until("the announced ports", async () => {
      const views = await Promise.all(this.ports.map((_, node) => this.ask(node, "CLUSTER", "NODES")));
      return views.every((view) => ports.every((port) => String(view).includes(`${HOST}:${port}@`)));
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.clients) client.disconnect();
    await this.#cluster.stop();
  }
}
