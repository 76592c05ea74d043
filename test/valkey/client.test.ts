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
const LATE_MS = 150;

/** Connection errors are what these tests are about: nothing to report. */
function clientOf(url: URL, commandTimeoutMs = LATE_MS): Valkey {
  return new Valkey({ url, cluster: false }, { commandTimeoutMs, onConnectionError: () => undefined });
}

describe("a client of Valkey", () => {
  it("gives up on a server that accepts and never answers, within its deadline", async () => {
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
    // No queue grows behind it: what is asked now fails at once.
    await expect(valkey.call("ping")).rejects.toThrow(/Valkey at 127\.0\.0\.1/);
  });

  it("gives up on a server that falls silent amid its work", async () => {
    await using server = await startValkey();
    await using proxy = await TcpProxy.before(server.url);
    const valkey = clientOf(proxy.url);
    expect(await valkey.call("ping")).toBe("PONG");
    proxy.mode = "silent";
    await expect(valkey.call("ping")).rejects.toThrow("no reply within");
    expect(valkey.isBroken).toBe(true);
  });

  it("is broken by a lost connection, and does not come back by itself", async () => {
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

  it("fails at once where nobody listens", async () => {
    const server = await startValkey();
    await server.stop();
    await expect(clientOf(server.url, 60_000).call("ping")).rejects.toThrow(/Valkey at 127\.0\.0\.1:\d+: /);
  });

  it("hands replies over as they are, an error of the server's included, and stays sound", async () => {
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

  it("is broken by a reply that says that this is the wrong server", async () => {
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

describe("a client of a cluster", () => {
  it("lets a command whose keys are in two slots fail alone", async () => {
    const [cluster] = DEPLOYMENTS.filter(({ name }) => name === "cluster");
    const valkey = cluster?.connect();
    if (valkey === undefined) throw new Error("no cluster");
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

describe("a client whose library was replaced", () => {
  it("is broken by a function that raises an error: the library may speak another edition now", async () => {
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
  it("keeps a sound client and replaces a broken one, starting each once", async () => {
    await using server = await startValkey();
    await using proxy = await TcpProxy.before(server.url);
    let starts = 0;
    const keeper = new SessionProvider(
      () => clientOf(proxy.url, 2_000),
      async (valkey) => {
        await valkey.call("ping");
        starts += 1;
        return starts;
      },
    );
    const first = await keeper.get();
    expect(await keeper.get()).toEqual(first);
    expect(first.startupInfo).toBe(1);

    proxy.cut();
    await first.valkey.pipelined([GET]);
    const second = await keeper.get();
    expect(second.valkey).not.toBe(first.valkey);
    expect(second.startupInfo).toBe(2);

    proxy.mode = "refuse";
    proxy.cut();
    await second.valkey.pipelined([GET]);
    await expect(keeper.get()).rejects.toThrow(/Valkey at/);
    await expect(keeper.get()).rejects.toThrow(/Valkey at/);
    proxy.mode = "pass";
    const third = await keeper.get();
    expect(third.startupInfo).toBe(3);
    third.valkey.close();
  });

  it("starts a client once for two invocations at the same time", async () => {
    await using server = await startValkey();
    let starts = 0;
    const keeper = new SessionProvider(
      () => clientOf(server.url, 5_000),
      async (valkey) => {
        starts += 1;
        return valkey.call("ping");
      },
    );
    const [one, other] = await Promise.all([keeper.get(), keeper.get()]);
    expect(one.valkey).toBe(other.valkey);
    expect(starts).toBe(1);
    one.valkey.close();
  });
});
