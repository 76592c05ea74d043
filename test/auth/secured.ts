/** A Valkey with TLS and one restricted user per function. An administrator connects without TLS. */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Redis } from "iovalkey";
import { vi } from "vitest";
import { startValkey, startValkeyCluster, type TlsFiles, type ValkeyServer } from "#local/valkey-server.ts";
import type { ValkeyAddress } from "#shared/valkey/address.ts";

const fixture = (name: string): string => fileURLToPath(new URL(`../fixtures/tls/${name}`, import.meta.url));
/** A certificate for `localhost`, without IP addresses. */
export const CERTIFICATE: TlsFiles = { certificate: fixture("server.pem"), key: fixture("server.key") };
/** The authority that signed the certificate. */
export const AUTHORITY = fixture("authority.pem");
/** Another authority, which did not sign it. */
export const OTHER_AUTHORITY = fixture("stranger.pem");

export const KINDS = ["standalone", "cluster"] as const;
export type Kind = (typeof KINDS)[number];

const PRIMARIES = 2;
const BY_NAME = ["--cluster-announce-hostname", "localhost", "--cluster-preferred-endpoint-type", "hostname"];

/** Returns the rules of a function's user, as the words of its access string. */
export function accessOf(functionName: string): string[] {
  const source: unknown = JSON.parse(
    readFileSync(new URL("../../shared/valkey/access.json", import.meta.url), "utf8"),
  );
  const rules: unknown = Object(source)[functionName];
  if (!Array.isArray(rules)) throw new TypeError(`access.json has no rules for ${functionName}`);
  return rules.map(String);
}

/** Commands that a client sends to a replica. */
const CONNECTION_COMMANDS = /^(?:client|cluster|info|readonly)\b/;
/** Commands of the administrator, of replication, and AUTH, which every user may run. */
const IGNORED_COMMANDS = /^(?:acl|config|monitor|replconf|psync|auth)\b/;

/** Collects the names of keys that clients access. */
interface Watched extends AsyncDisposable {
  readonly keys: ReadonlySet<string>;
}

export class SecuredValkey implements AsyncDisposable {
  readonly nodes: readonly ValkeyServer[];
  /** The address for the administrator. */
  readonly plain: ValkeyAddress;
  /** The environment variables of a function, without its user. */
  readonly environment: Readonly<Record<string, string>>;
  readonly #server: ValkeyServer;
  readonly #primaries: number;
  readonly #administrators: readonly Redis[];

  private constructor(kind: Kind, server: ValkeyServer, nodes: readonly ValkeyServer[]) {
    this.#server = server;
    this.#primaries = kind === "cluster" ? PRIMARIES : 1;
    this.nodes = nodes;
    this.plain = { url: server.url, cluster: kind === "cluster" };
    this.#administrators = nodes.map(({ url }) => new Redis({ host: url.hostname, port: Number(url.port) }));
    this.environment = {
      VALKEY_URL: server.tlsUrl?.href ?? "",
      VALKEY_CLUSTER_MODE: String(kind === "cluster"),
      VALKEY_CA: AUTHORITY,
      FLOW_PARTITIONS: "65536",
    };
  }

  /** Starts the server. By default, the nodes of a cluster announce `localhost` as their host. */
  static async start(kind: Kind, replicas = 0, extraArgs = BY_NAME): Promise<SecuredValkey> {
    if (kind === "standalone") {
      const server = await startValkey({ tls: CERTIFICATE });
      return new SecuredValkey(kind, server, [server]);
    }
    const cluster = await startValkeyCluster({ primaries: PRIMARIES, replicas, extraArgs, tls: CERTIFICATE });
    return new SecuredValkey(kind, cluster, cluster.nodes);
  }

  /** Runs a command on every node, as the administrator. */
  onEveryNode(name: string, ...args: string[]): Promise<unknown[]> {
    return Promise.all(this.#administrators.map((node) => node.call(name, args)));
  }

  async setUser(name: string, password: string, rules: readonly string[]): Promise<void> {
    await this.onEveryNode("acl", "SETUSER", name, "reset", `>${password}`, ...rules);
  }

  /** Makes the nodes of a cluster announce other ports, and waits until all of them know these. */
  async announce(ports: readonly number[]): Promise<void> {
    if (!this.plain.cluster) return;
    await Promise.all(
      this.#administrators.map((node, index) =>
        node.call("config", ["SET", "cluster-announce-tls-port", String(ports[index])]),
      ),
    );
    const ca = readFileSync(AUTHORITY);
    const clients = this.nodes.map(
      ({ tlsUrl }) => new Redis({ host: "localhost", port: Number(tlsUrl?.port), tls: { ca } }),
    );
    try {
      await vi.waitUntil(
        async () => {
          const views = await Promise.all(clients.map((client) => client.call("cluster", ["SLOTS"])));
          return views.every((view) => ports.every((port) => JSON.stringify(view).includes(`,${port},`)));
        },
        { timeout: 10_000, interval: 50 },
      );
    } finally {
      for (const client of clients) client.disconnect();
    }
  }

  /** Returns the environment of a function with that user. It connects to a replica first, if there is one. */
  as(user: string, password: string): Record<string, string> {
    const url = new URL(this.nodes.at(-1)?.tlsUrl ?? "");
    url.username = user;
    url.password = password;
    return { ...this.environment, VALKEY_URL: url.href };
  }

  /** Resets the logs of refused and executed commands, and starts to collect keys. */
  async watch(): Promise<Watched> {
    await this.onEveryNode("acl", "LOG", "RESET");
    await this.onEveryNode("config", "RESETSTAT");
    const keys = new Set<string>();
    const monitors = await Promise.all(this.#administrators.map((node) => node.monitor()));
    for (const monitor of monitors) {
      monitor.on("monitor", (_time: string, words: readonly string[]) => {
        for (const word of words) if (word.startsWith("ff:")) keys.add(word);
      });
    }
    const stop = async (): Promise<void> => {
      for (const monitor of monitors) monitor.disconnect();
    };
    return { keys, [Symbol.asyncDispose]: stop };
  }

  /** Returns what the server refused to users, e.g. `sluice-dispatch: command toplevel get`. */
  async refusals(): Promise<string[]> {
    const logs = await this.onEveryNode("acl", "LOG");
    const entries = logs.flat().map((entry) => {
      const words = Array.isArray(entry) ? entry.map(String) : [];
      const fields = Object.fromEntries(words.map((word, index) => [word, words[index + 1]]));
      return `${fields.username}: ${fields.reason} ${fields.context} ${fields.object}`;
    });
    return [...new Set(entries)].sort();
  }

  /** Returns the commands that clients, functions and scripts have run. */
  async commandsRun(): Promise<string[]> {
    const reports = await this.onEveryNode("info", "commandstats");
    const names = reports.flatMap((report, node) =>
      [...String(report).matchAll(/^cmdstat_([^:]+):calls=[1-9]/gm)].flatMap(([, name = ""]) =>
        // A replica also runs the replicated commands of its primary.
        node < this.#primaries || CONNECTION_COMMANDS.test(name) ? name : [],
      ),
    );
    return [...new Set(names)].filter((name) => !IGNORED_COMMANDS.test(name)).sort();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const administrator of this.#administrators) administrator.disconnect();
    await this.#server.stop();
  }
}
