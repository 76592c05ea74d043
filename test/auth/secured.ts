/** A Valkey behind TLS, with users that may do what they need; an administrator goes in beside it, without TLS. */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Redis } from "iovalkey";
import { vi } from "vitest";
import { startValkey, startValkeyCluster, type TlsFiles, type ValkeyServer } from "#local/valkey-server.ts";
import type { ValkeyAddress } from "#shared/valkey/address.ts";

const fixture = (name: string): string => fileURLToPath(new URL(`../fixtures/tls/${name}`, import.meta.url));
/** For `localhost`, and for no address. */
export const CERTIFICATE: TlsFiles = { certificate: fixture("server.pem"), key: fixture("server.key") };
/** Who signed the certificate, and who did not. */
export const AUTHORITY = fixture("authority.pem");
export const STRANGER = fixture("stranger.pem");

export const KINDS = ["standalone", "cluster"] as const;
export type Kind = (typeof KINDS)[number];

const PRIMARIES = 2;
const BY_NAME = ["--cluster-announce-hostname", "localhost", "--cluster-preferred-endpoint-type", "hostname"];

/** A function, and an array of rules: the words of its user's access string. */
export function accessOf(functionName: string): string[] {
  const source: unknown = JSON.parse(
    readFileSync(new URL("../../shared/valkey/access.json", import.meta.url), "utf8"),
  );
  const rules: unknown = Object(source)[functionName];
  if (!Array.isArray(rules)) throw new TypeError(`access.json has no rules for ${functionName}`);
  return rules.map(String);
}

/** What a client asks of a replica. */
const OF_CONNECTING = /^(?:client|cluster|info|readonly)\b/;
/** The administrator's own, what a replica asks of its primary, and what everybody may. */
const OF_NOBODY = /^(?:acl|config|monitor|replconf|psync|auth)\b/;

/** The names of our keys that were asked for so far. */
interface Watched extends AsyncDisposable {
  readonly keys: ReadonlySet<string>;
}

export class SecuredValkey implements AsyncDisposable {
  readonly nodes: readonly ValkeyServer[];
  /** Of the administrator. */
  readonly plain: ValkeyAddress;
  /** What a function is told; its user is to be added. */
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

  /** A cluster's nodes name each other `localhost`, unless other arguments are given. */
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

  /** Has the nodes of a cluster name each other with other ports, and waits until all of them do. */
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

  /** An environment in which a function is that user. It asks a replica first, where there is one. */
  as(user: string, password: string): Record<string, string> {
    const url = new URL(this.nodes.at(-1)?.tlsUrl ?? "");
    url.username = user;
    url.password = password;
    return { ...this.environment, VALKEY_URL: url.href };
  }

  /** Forgets what was refused and counted, and listens to what is asked from now on. */
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

  /** What the server refused to any user, e.g. `sluice-dispatch: command toplevel get`. */
  async refusals(): Promise<string[]> {
    const logs = await this.onEveryNode("acl", "LOG");
    const entries = logs.flat().map((entry) => {
      const words = Array.isArray(entry) ? entry.map(String) : [];
      const fields = Object.fromEntries(words.map((word, index) => [word, words[index + 1]]));
      return `${fields.username}: ${fields.reason} ${fields.context} ${fields.object}`;
    });
    return [...new Set(entries)].sort();
  }

  /** The commands that were run, by clients and within functions and scripts. */
  async commandsRun(): Promise<string[]> {
    const reports = await this.onEveryNode("info", "commandstats");
    const names = reports.flatMap((report, node) =>
      [...String(report).matchAll(/^cmdstat_([^:]+):calls=[1-9]/gm)].flatMap(([, name = ""]) =>
        // A replica also runs what its primary did.
        node < this.#primaries || OF_CONNECTING.test(name) ? name : [],
      ),
    );
    return [...new Set(names)].filter((name) => !OF_NOBODY.test(name)).sort();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const administrator of this.#administrators) administrator.disconnect();
    await this.#server.stop();
  }
}
