import { describe, expect, it } from "vitest";
import { startValkey } from "#local/valkey-server.ts";
import { command } from "#shared/contract/command.ts";
import type { Partition } from "#shared/contract/ids.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { SessionProvider } from "#shared/valkey/session.ts";
import { TcpProxy } from "#test/support/tcp-proxy.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

const P = 7 as Partition;
const GET = command(P, "get", "{fp:7}");
const TIMEOUT_MS = 150;

/** These tests cause connection errors on purpose, so the client ignores them. */
function clientOf(url: URL, commandTimeoutMs = TIMEOUT_MS): Valkey {
  return new Valkey({ url, cluster: false }, { commandTimeoutMs, onConnectionError: () => undefined });
}

describe("Valkey (client)", () => {
  it("times out if the server accepts the connection and never replies", async () => {
    await using server = await startValkey();
    await using proxy = await TcpProxy.before(server.url);
    proxy.mode = "silent";
    const valkey = clientOf(proxy.url);
    const results = await valkey.pipelined([GET, command(P, "set", "{fp:7}", "1")]);
    const failure = {
      ok: false,
      error: { name: "ValkeyError", message: expect.stringContaining("no reply within 150 ms") },
    };
    expect(results).toMatchObject([failure, failure]);
    expect(valkey.isBroken).toBe(true);
    // Later commands fail at once and are not queued.
    await expect(valkey.call("ping")).rejects.toThrow(/Valkey at 127\.0\.0\.1/);
  });

  it("times out if the server stops replying", async () => {
    await using server = await startValkey();
    await using proxy = await TcpProxy.before(server.url);
    const valkey = clientOf(proxy.url, 1_000);
    expect(await valkey.call("ping")).toBe("PONG");
    proxy.mode = "silent";
    await expect(valkey.call("ping")).rejects.toThrow("no reply within");
    expect(valkey.isBroken).toBe(true);
  });

  it("is broken after a lost connection, and does not reconnect", async () => {
    await using server = await startValkey();
    await using proxy = await TcpProxy.before(server.url);
    const valkey = clientOf(proxy.url, 5_000);
    expect(await valkey.call("ping")).toBe("PONG");
    expect(valkey.isBroken).toBe(false);
    proxy.cut();
    const [result] = await valkey.pipelined([GET]);
    expect(result).toMatchObject({ ok: false, error: { name: "ValkeyError" } });
    expect(valkey.isBroken).toBe(true);
    expect(proxy.connections).toBe(1);
  });

  it("fails at once if no server listens", async () => {
    const server = await startValkey();
    await server.stop();
    await expect(clientOf(server.url, 60_000).call("ping")).rejects.toThrow(/Valkey at 127\.0\.0\.1:\d+: /);
  });

  it("returns error replies as they are, and is not broken by WRONGTYPE or OOM", async () => {
    await using server = await startValkey();
    const valkey = clientOf(server.url, 5_000);
    const [first, second] = await valkey.pipelined([
      command(P, "set", "{fp:7}", "text"),
      command(P, "smembers", "{fp:7}"),
    ]);
    expect(first).toEqual({ ok: true, value: "OK" });
    expect(second).toMatchObject({ ok: false, error: { message: expect.stringMatching(/^WRONGTYPE/) } });
    expect(valkey.isBroken).toBe(false);
    await valkey.call("config", "SET", "maxmemory", "1");
    const [full] = await valkey.pipelined([command(P, "set", "{fp:7}", "more")]);
    expect(full).toMatchObject({ ok: false, error: { message: expect.stringMatching(/^OOM/) } });
    expect(valkey.isBroken).toBe(false);
    valkey.close();
  });

  it("is broken after a write to a replica", async () => {
    await using primary = await startValkey();
    await using replica = await startValkey({
      extraArgs: ["--replicaof", primary.url.hostname, primary.url.port],
    });
    const valkey = clientOf(replica.url, 5_000);
    const [result] = await valkey.pipelined([command(P, "set", "{fp:7}", "1")]);
    expect(result).toMatchObject({
      ok: false,
      error: { message: expect.stringMatching(/^READONLY|^LOADING|^MASTERDOWN/) },
    });
    expect(valkey.isBroken).toBe(true);
    valkey.close();
  });
});

describe("Valkey (cluster client)", () => {
  it("fails only the command whose keys are in two slots", async () => {
    const [cluster] = DEPLOYMENTS.filter(({ name }) => name === "cluster");
    const valkey = cluster?.connect();
    if (valkey === undefined) throw new Error("no cluster deployment");
    const [good, bad, other] = await valkey.pipelined([
      command(P, "set", "{fp:7}:test:cross-slot", "1"),
      command(P, "mget", "{fp:7}:a", "{fp:8}:a"),
      command(P, "del", "{fp:7}:test:cross-slot"),
    ]);
    expect(good).toEqual({ ok: true, value: "OK" });
    expect(bad).toMatchObject({ ok: false, error: { message: expect.stringContaining("same slot") } });
    expect(other).toEqual({ ok: true, value: 1 });
    expect(valkey.isBroken).toBe(false);
    valkey.close();
  });
});

describe("Valkey (after a function error)", () => {
  it("is broken, since the library may have been replaced by another edition", async () => {
    await using server = await startValkey();
    const valkey = clientOf(server.url, 5_000);
    await ensureLibrary(valkey);
    const [result] = await valkey.pipelined([
      command(P, "fcall", "ff_resolve_dependency", 1, "{fp:7}", "a", "b", "1"),
    ]);
    expect(result).toMatchObject({ ok: false, error: { message: expect.stringContaining("takes 11 KEYS") } });
    expect(valkey.isBroken).toBe(true);
    valkey.close();
  });
});

describe("SessionProvider", () => {
  it("reuses a working client, replaces a broken one, and starts each client once", async () => {
    await using server = await startValkey();
    await using proxy = await TcpProxy.before(server.url);
    let starts = 0;
    const sessions = new SessionProvider(
      () => clientOf(proxy.url, 2_000),
      async (valkey) => {
        await valkey.call("ping");
        starts += 1;
        return starts;
      },
    );
    const first = await sessions.get();
    expect(await sessions.get()).toEqual(first);
    expect(first.startupInfo).toBe(1);

    proxy.cut();
    await first.valkey.pipelined([GET]);
    const second = await sessions.get();
    expect(second.valkey).not.toBe(first.valkey);
    expect(second.startupInfo).toBe(2);

    proxy.mode = "refuse";
    proxy.cut();
    await second.valkey.pipelined([GET]);
    await expect(sessions.get()).rejects.toThrow(/Valkey at/);
    await expect(sessions.get()).rejects.toThrow(/Valkey at/);
    proxy.mode = "pass";
    const third = await sessions.get();
    expect(third.startupInfo).toBe(3);
    third.valkey.close();
  });

  it("starts one client for two concurrent invocations", async () => {
    await using server = await startValkey();
    let starts = 0;
    const sessions = new SessionProvider(
      () => clientOf(server.url, 5_000),
      async (valkey) => {
        starts += 1;
        return valkey.call("ping");
      },
    );
    const [one, other] = await Promise.all([sessions.get(), sessions.get()]);
    expect(one.valkey).toBe(other.valkey);
    expect(starts).toBe(1);
    one.valkey.close();
  });
});
