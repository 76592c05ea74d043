/** The Valkey servers of a test bed, and how to break them. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Redis } from "iovalkey";
import { HOST, launch, type ValkeyProcess } from "#local/valkey-process.ts";
import {
  findValkeyServer,
  startValkey,
  startValkeyCluster,
  type ValkeyCluster,
  type ValkeyServer,
} from "#local/valkey-server.ts";
import type { NodeAddress } from "#shared/valkey/address.ts";

/** The servers of a test bed. */
export interface Servers extends AsyncDisposable {
  readonly isCluster: boolean;
  readonly url: URL;
  readonly ports: readonly number[];
  readonly nodes: readonly NodeAddress[];
  /** Makes every server announce the port of its proxy, in the same order. */
  announce(ports: readonly number[]): Promise<void>;
}

const POLL_MS = 20;
const DEADLINE_MS = 30_000;

/** Polls until a condition holds: a cluster has no event for it. Throws after 30 s. */
export async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + DEADLINE_MS;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`timed out after ${DEADLINE_MS} ms waiting for ${what}`);
    await sleep(POLL_MS);
  }
}

/** One server. If persistent, it can be killed and restarted on its port with its append-only file. */
export class Standalone implements Servers {
  readonly isCluster = false;
  readonly url: URL;
  readonly ports: readonly number[];
  readonly nodes: readonly NodeAddress[] = [];
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

  /** Starts a server that syncs every write to disk before it replies. */
  static async persistent(): Promise<Standalone> {
    const folder = await mkdtemp(join(tmpdir(), "sluice-faults-"));
    try {
      return new Standalone(await startValkey({ extraArgs: persistence(folder) }), folder);
    } catch (error) {
      await rm(folder, { recursive: true, force: true });
      throw error;
    }
  }

  /** Kills the server with SIGKILL and starts it again. */
  async restart(): Promise<void> {
    if (this.#folder === undefined) throw new Error("a server without persistence would lose its data");
    process.kill(this.#server.pid, "SIGKILL");
    await this.#server.stop();
    const [port = 0] = this.ports;
    const started = await launch(findValkeyServer(), port, persistence(this.#folder));
    if (!started.ok) throw new Error(`the server did not restart:\n${started.log}`);
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

/** Nodes detect the failure of another one within seconds. */
const NODE_ARGUMENTS = ["--cluster-node-timeout", "1000", "--repl-ping-replica-period", "1"];

/** A cluster, with one connection to each node. */
export class ClusterServers implements Servers {
  readonly isCluster = true;
  readonly url: URL;
  readonly ports: readonly number[];
  readonly nodes: readonly NodeAddress[];
  readonly #clients: Redis[];
  readonly #cluster: ValkeyCluster;
  readonly #restarted: ValkeyProcess[] = [];

  private constructor(cluster: ValkeyCluster) {
    this.#cluster = cluster;
    this.url = cluster.url;
    this.ports = cluster.nodes.map(({ port }) => port);
    this.nodes = this.ports.map((port) => ({ host: HOST, port }));
    this.#clients = this.ports.map(connectTo);
  }

  static async start(replicas: number): Promise<ClusterServers> {
    return new ClusterServers(
      await startValkeyCluster({ primaries: 3, replicas, extraArgs: NODE_ARGUMENTS }),
    );
  }

  /** Kills one node with SIGKILL. */
  async kill(node: number): Promise<void> {
    const server = this.#node(node);
    process.kill(server.pid, "SIGKILL");
    await server.stop();
  }

  /** Sends a signal to one node. */
  signal(node: number, signal: "SIGSTOP" | "SIGCONT" | "SIGKILL"): void {
    process.kill(this.#node(node).pid, signal);
  }

  /**
   * Prepares the restart of a node that will be killed by a signal. The returned function starts it again on its port: as
   * the same member of the cluster, with an empty dataset.
   */
  async prepareRestart(node: number): Promise<() => Promise<void>> {
    const setting = async (name: string): Promise<string> => {
      const reply = await this.ask(node, "CONFIG", "GET", name);
      return Array.isArray(reply) ? String(reply[1]) : "";
    };
    const args = [
      ...["--cluster-enabled", "yes", ...NODE_ARGUMENTS],
      ...["--cluster-port", await setting("cluster-port")],
      ...["--cluster-announce-port", await setting("cluster-announce-port")],
      // The folder of a killed node stays until the end of the test bed.
      ...["--cluster-config-file", join(await setting("dir"), "nodes.conf")],
    ];
    const port = this.ports[node] ?? Number.NaN;
    return async () => {
      const started = await launch(findValkeyServer(), port, args);
      if (!started.ok) throw new Error(`the node did not restart:\n${started.log}`);
      this.#restarted.push(started.server);
      this.#clients[node]?.disconnect();
      this.#clients[node] = connectTo(port);
    };
  }

  /** Sends a command to one node. */
  ask(node: number, name: string, ...args: (string | number)[]): Promise<unknown> {
    const client = this.#clients[node];
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
    for (const client of this.#clients) client.disconnect();
    await Promise.all(this.#restarted.map((server) => server.stop()));
    await this.#cluster.stop();
  }

  #node(node: number): ValkeyServer {
    const server = this.#cluster.nodes[node];
    if (server === undefined) throw new RangeError(`the cluster has no node ${node}`);
    return server;
  }
}

function connectTo(port: number): Redis {
  const client = new Redis({ host: HOST, port, lazyConnect: true, retryStrategy: () => null });
  // Nodes are killed on purpose; a command to a dead node rejects.
  client.on("error", () => undefined);
  return client;
}
