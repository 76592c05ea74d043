import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { FunctionProcess } from "#local/function-process.ts";
import { PARTITION_CONFIG_KEY } from "#shared/contract/keys.ts";
import { acquireLease, LEASE_KEY } from "#shared/reconcile/lease.ts";
import { MINUTE_MS, SERVER_KINDS, useReconcilerServers } from "#test/support/reconcile.ts";
import { TcpProxy } from "#test/support/tcp-proxy.ts";

const BUNDLE = fileURLToPath(new URL("../../dist/reconcile/index.mjs", import.meta.url));
const SCHEDULED = { source: "aws.scheduler", "detail-type": "Scheduled Event", detail: {} };

describe.each(SERVER_KINDS)("the built reconcile function (%s)", (kind) => {
  const servers = useReconcilerServers(kind);
  const output: string[] = [];

  function start(environment: Record<string, string> = {}): FunctionProcess {
    output.length = 0;
    const { queue, address } = servers();
    return new FunctionProcess({
      functionName: "reconcile",
      bundle: BUNDLE,
      environment: {
        ...queue.queue.environment,
        VALKEY_URL: address.url.href,
        VALKEY_CLUSTER_MODE: String(address.cluster),
        COMPLETIONS_QUEUE_URL: queue.queue.queueUrl,
        FLOW_PARTITIONS: "65536",
        ...environment,
      },
      timeoutMs: 30_000,
      onOutput: (text) => output.push(text),
    });
  }

  it("resends a missed completion, and returns and logs its counts", async () => {
    const flow = await servers().submit("up>child", "other>child");
    await flow.end("up", "failed", MINUTE_MS);
    await using fn = start();
    const answer = {
      state: "complete",
      scanned: 1,
      repaired: 1,
      deferred: 0,
      promoted: 0,
      refused: 0,
      unreadable: 0,
    };
    expect(await fn.invoke(SCHEDULED)).toMatchObject({
      ...answer,
      unread: 0,
      tasks: { dependencies: { state: "complete", scanned: 1, counts: { CompletionsRepaired: 1 } } },
    });
    expect(await servers().drainSent()).toEqual([flow.keys("up").id]);
    for (const [name, unit] of [
      ["ExecutionsScanned", "Count"],
      ["CompletionsRepaired", "Count"],
      ["ExecutionsPromoted", "Count"],
      ["OldestResolvableAge", "Seconds"],
      ["SweepDuration", "Milliseconds"],
    ]) {
      expect(output.join("")).toContain(`{"Name":"${name}","Unit":"${unit}"}`);
    }
    await flow.fixture.read("del", flow.fixture.index.lane(flow.fixture.lane).blockedDependencies);
    expect(await fn.invoke(SCHEDULED)).toMatchObject({ ...answer, scanned: 0, repaired: 0, unread: 0 });
  });

  it("sends nothing within RECONCILE_GRACE_SECONDS", async () => {
    const flow = await servers().submit("up>child");
    await flow.end("up", "failed", MINUTE_MS);
    await using fn = start({ RECONCILE_GRACE_SECONDS: "3600" });
    expect(await fn.invoke(SCHEDULED)).toMatchObject({ state: "complete", scanned: 1, repaired: 0 });
    await flow.fixture.read("del", flow.fixture.index.lane(flow.fixture.lane).blockedDependencies);
  });

  it("does nothing while another run has the lease", async () => {
    await acquireLease(servers().valkey);
    await using fn = start({ FLOW_PARTITIONS: "256" });
    expect(await fn.invoke(SCHEDULED)).toMatchObject({ state: "busy" });
    await servers().valkey.call("del", LEASE_KEY);
    expect(await fn.invoke(SCHEDULED)).toMatchObject({ state: "complete" });
  });

  it("fails on invalid variables, and on another partition count", async () => {
    await using misconfigured = start({ LANES: "a,,b", RECONCILE_GRACE_SECONDS: "soon" });
    const failure = misconfigured.invoke(SCHEDULED);
    await expect(failure).rejects.toThrow(/LANES/);
    await expect(failure).rejects.toThrow(/RECONCILE_GRACE_SECONDS is "soon"/);
    await servers().valkey.call("hset", PARTITION_CONFIG_KEY, "num_flow_partitions", 256);
    await using other = start();
    await expect(other.invoke(SCHEDULED)).rejects.toThrow(/FLOW_PARTITIONS is 65536/);
    await servers().valkey.call("del", PARTITION_CONFIG_KEY);
    expect(await other.invoke(SCHEDULED)).toMatchObject({ state: "complete" });
  });
});

describe("the reconcile function while Valkey is unavailable", () => {
  const servers = useReconcilerServers("standalone");

  it("fails, and recovers once Valkey is back", async () => {
    await using proxy = await TcpProxy.before(servers().address.url);
    await using fn = new FunctionProcess({
      functionName: "reconcile",
      bundle: BUNDLE,
      environment: {
        ...servers().queue.queue.environment,
        VALKEY_URL: proxy.url.href,
        COMPLETIONS_QUEUE_URL: servers().queue.queue.queueUrl,
      },
      timeoutMs: 30_000,
      onOutput: () => undefined,
    });
    expect(await fn.invoke(SCHEDULED)).toMatchObject({ state: "complete" });
    proxy.mode = "refuse";
    proxy.cut();
    for (const _ of [1, 2]) await expect(fn.invoke(SCHEDULED)).rejects.toThrow(/Valkey at 127\.0\.0\.1/);
    proxy.mode = "pass";
    expect(await fn.invoke(SCHEDULED)).toMatchObject({ state: "complete" });
  });
});
