import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { startValkey, startValkeyCluster } from "#local/valkey-server.ts";
import { Subscriptions } from "#relay/subscriptions.ts";
import { newTally } from "#relay/tally.ts";
import { command } from "#shared/contract/command.ts";
import type { Partition } from "#shared/contract/ids.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { readValkey } from "#shared/valkey/config.ts";
import { SessionProvider } from "#shared/valkey/session.ts";
import { type ProxiedValkey, startProxiedValkey } from "#test/support/proxied-valkey.ts";
import { TcpProxy } from "#test/support/tcp-proxy.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

/** Spread over all nodes. */
const PARTITIONS = Array.from({ length: 16 }, (_, partition) => partition as Partition);
const LOG = { info: () => undefined, warn: () => undefined, error: () => undefined };

async function readEverywhere(valkey: Valkey): Promise<boolean> {
  const results = await valkey.pipelined(
    PARTITIONS.map((partition) => command(partition, "get", `{fp:${partition}}:test:missing`)),
  );
  return results.every(({ ok }) => ok);
}

describe.each([
  ["with IPv6 addresses", "[::1]", ["--bind", "127.0.0.1", "::1", "--cluster-announce-ip", "::1"]],
  ["with unknown endpoints", "127.0.0.1", ["--cluster-preferred-endpoint-type", "unknown-endpoint"]],
])("a cluster %s", (_, host, extraArgs) => {
  it("is read by a first client, by its successor and by the relay", async () => {
    await using cluster = await startValkeyCluster({ primaries: 2, extraArgs });
    const address = { url: new URL(`redis://${host}:${cluster.port}`), cluster: true };
    const sessions = new SessionProvider(
      (knownNodes) => new Valkey(address, { knownNodes, onConnectionError: () => undefined }),
      async (valkey) => (await valkey.primaries()).length,
    );
    const first = await sessions.get();
    expect(first.startupInfo).toBe(2);
    expect(await readEverywhere(first.valkey)).toBe(true);
    first.valkey.close();
    // The successor starts from the nodes that the first client discovered.
    const second = await sessions.get();
    expect(second.valkey).not.toBe(first.valkey);
    expect(await readEverywhere(second.valkey)).toBe(true);
    second.valkey.close();

    const subscriptions = new Subscriptions({
      address,
      tally: newTally(),
      log: LOG,
      onEvent: () => undefined,
    });
    await vi.waitUntil(() => subscriptions.live === 2, { timeout: 5_000 });
    await subscriptions.stop();
  });
});

describe("the first nodes of a cluster client", () => {
  const [, deployment] = DEPLOYMENTS;
  const node = deployment?.address.url.host ?? "";

  async function connectTo(hosts: readonly string[]): Promise<boolean> {
    const errors: string[] = [];
    const env = { VALKEY_URL: `redis://${hosts.join(",")}`, VALKEY_CLUSTER_MODE: "true" };
    const valkey = new Valkey(readValkey(env, errors), { onConnectionError: () => undefined });
    expect(errors).toEqual([]);
    try {
      return (await readEverywhere(valkey)) && !valkey.isBroken;
    } finally {
      valkey.close();
    }
  }

  it("may be dead or silent, as long as one answers", async () => {
    const stopped = await startValkey();
    await stopped.stop();
    await using proxy = await TcpProxy.before(stopped.url);
    proxy.mode = "silent";
    const dead = stopped.url.host;
    const silent = proxy.url.host;
    for (const hosts of [
      [dead, node],
      [node, dead],
      [silent, dead, node],
      [silent, node],
    ]) {
      expect(await connectTo(hosts)).toBe(true);
    }
  });

  it("are all named in the error if none answers", async () => {
    const stopped = await startValkey();
    await stopped.stop();
    const { port } = stopped;
    const valkey = new Valkey(
      { url: stopped.url, moreNodes: [{ host: "localhost", port }], cluster: true },
      { onConnectionError: () => undefined },
    );
    const failure = await valkey.call("get", "key").catch(String);
    expect(failure).toContain("no node of the cluster answers");
    expect(failure).toContain(`127.0.0.1:${port}`);
    expect(failure).toContain(`localhost:${port}`);
    expect(valkey.isBroken).toBe(true);
  });
});

describe("a closed cluster client", () => {
  it("opens no more connections, neither to find the nodes nor for a late command", async () => {
    const url = new URL("redis://127.0.0.1:6379");
    await using one = await TcpProxy.before(url);
    await using other = await TcpProxy.before(url);
    one.mode = "silent";
    other.mode = "silent";
    const opened = (): number => one.connections + other.connections;
    const { hostname: host, port } = other.url;
    const valkey = new Valkey(
      { url: one.url, moreNodes: [{ host, port: Number(port) }], cluster: true },
      { onConnectionError: () => undefined },
    );
    const pending = readEverywhere(valkey);
    await vi.waitUntil(() => opened() === 1, { timeout: 5_000, interval: 5 });
    valkey.close();
    expect(await pending).toBe(false);
    expect(await readEverywhere(valkey)).toBe(false);
    expect(opened()).toBe(1);
  });
});

describe.each(["standalone", "cluster"] as const)("a session after a pause (%s)", (kind) => {
  let servers: ProxiedValkey;
  let sessions: SessionProvider<string>;
  const realNow = Date.now;

  /** As if the process had been frozen for that long. */
  function freeze(ms: number): void {
    vi.spyOn(Date, "now").mockImplementation(() => realNow() + ms);
  }

  beforeAll(async () => {
    servers = await startProxiedValkey(kind);
  });
  afterAll(() => servers[Symbol.asyncDispose]());
  beforeEach(() => {
    sessions = new SessionProvider(
      (knownNodes) => new Valkey(servers.address, { knownNodes, onConnectionError: () => undefined }),
      async (valkey) => String((await valkey.primaries()).length),
    );
  });
  afterEach(() => {
    vi.restoreAllMocks();
  });

  it.each(["drop", "cut"] as const)("works at once after its connections died (%s)", async (death) => {
    const { valkey } = await sessions.get();
    expect(await readEverywhere(valkey)).toBe(true);
    for (const proxy of servers.proxies) void proxy[death]();
    freeze(5_001);
    const thawed = await sessions.get();
    expect(thawed.valkey).not.toBe(valkey);
    expect(await readEverywhere(thawed.valkey)).toBe(true);
    thawed.valkey.close();
  });

  it("keeps its client if the server replies, and sends nothing if it was not idle", async () => {
    const { valkey } = await sessions.get();
    await readEverywhere(valkey);
    for (const proxy of servers.proxies) void proxy.drop();
    // A reply is not older than 5 seconds: the dead connection is not noticed.
    freeze(4_900);
    expect((await sessions.get()).valkey).toBe(valkey);
    vi.restoreAllMocks();
    const fresh = await sessions.replace({ valkey, startupInfo: "" });
    expect(await readEverywhere(fresh.valkey)).toBe(true);
    freeze(60_000);
    expect((await sessions.get()).valkey).toBe(fresh.valkey);
    fresh.valkey.close();
  });

  it("is replaced once for several invocations that failed on it", async () => {
    const failed = await sessions.get();
    const [one, other] = await Promise.all([sessions.replace(failed), sessions.replace(failed)]);
    expect(one.valkey).not.toBe(failed.valkey);
    expect(other.valkey).toBe(one.valkey);
    one.valkey.close();
  });
});
