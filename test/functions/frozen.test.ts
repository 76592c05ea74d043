import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { FunctionProcess } from "#local/function-process.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { builtFunction, dispatchOne, recordOf } from "#test/auth/built.ts";
import { family, QueueProbe } from "#test/support/dispatch.ts";
import { FlowFixture } from "#test/support/flow-fixture.ts";
import { type ProxiedValkey, startProxiedValkey } from "#test/support/proxied-valkey.ts";

/** Longer than a connection may be idle without a check. */
const IDLE_MS = 5_100;
const SCHEDULED = { source: "aws.scheduler", detail: {} };

describe.each(["standalone", "cluster"] as const)("a thawed function (%s)", (kind) => {
  const resources = new AsyncDisposableStack();
  const output: string[] = [];
  let probe: QueueProbe;
  let servers: ProxiedValkey;
  let admin: Valkey;

  beforeAll(async () => {
    probe = resources.use(await QueueProbe.start());
    servers = resources.use(await startProxiedValkey(kind));
    admin = new Valkey(servers.address, { onConnectionError: () => undefined });
    await ensureLibrary(admin);
  });
  afterAll(() => resources.disposeAsync());

  function start(name: string): FunctionProcess {
    const environment = {
      VALKEY_URL: servers.address.url.href,
      VALKEY_CLUSTER_MODE: String(servers.address.cluster),
      FLOW_PARTITIONS: name === "dispatch" ? "65536" : "256",
    };
    return resources.use(builtFunction(name, probe, environment, (text) => output.push(text)));
  }

  /** Freezes the functions, kills all connections, and thaws the functions. */
  async function freezeAndKill(
    functions: readonly FunctionProcess[],
    death: "cut" | "drop",
    frozenMs: number,
  ): Promise<void> {
    for (const { pid = 0 } of functions) process.kill(pid, "SIGSTOP");
    for (const proxy of servers.proxies) void proxy[death]();
    await sleep(frozenMs);
    for (const { pid = 0 } of functions) process.kill(pid, "SIGCONT");
    admin.close();
    admin = new Valkey(servers.address, { onConnectionError: () => undefined });
  }

  it("starts over once if its connections die with the first commands", async () => {
    const dispatch = start("dispatch");
    await dispatchOne(dispatch, admin);
    const fixture = new FlowFixture(admin);
    const { parent } = await family(fixture, 1);
    await fixture.finish(parent, "success");
    const record = recordOf({ execution_id: parent.id, flow_id: fixture.flow.id });
    output.length = 0;
    const lost = Promise.any(servers.proxies.map((proxy) => proxy.drop()));
    const answer = dispatch.invoke({ Records: [record] });
    await lost;
    for (const proxy of servers.proxies) proxy.cut();
    expect(await answer).toEqual({ batchItemFailures: [] });
    expect(output.join("")).toContain("starting over on new connections");
    admin.close();
    admin = new Valkey(servers.address, { onConnectionError: () => undefined });
  });

  it.each([
    ["closed", "cut", 0],
    ["silently dropped", "drop", IDLE_MS],
  ] as const)("loses no delivery and no sweep if its connections were %s", async (_, death, frozenMs) => {
    const [dispatch, reconcile] = [start("dispatch"), start("reconcile")];
    await dispatchOne(dispatch, admin);
    expect(await reconcile.invoke(SCHEDULED)).toMatchObject({ state: "complete" });
    await freezeAndKill([dispatch, reconcile], death, frozenMs);
    output.length = 0;
    await dispatchOne(dispatch, admin);
    expect(await reconcile.invoke(SCHEDULED)).toMatchObject({ state: "complete" });
    // A connection that only times out would cost a delivery five seconds.
    expect(output.join("")).not.toContain("no reply within 5000 ms");
  });
});
