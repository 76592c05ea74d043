import { fileURLToPath } from "node:url";
import { describe, expect, it, vi } from "vitest";
import { FunctionProcess } from "#local/function-process.ts";
import { parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { type ExecKeys, PARTITION_CONFIG_KEY } from "#shared/contract/keys.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { acquireLease, LEASE_KEY } from "#shared/reconcile/lease.ts";
import { TASK_NAMES } from "#shared/reconcile/task-names.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { stateOf } from "#test/support/dispatch.ts";
import { FlowFixture, LANE } from "#test/support/flow-fixture.ts";
import { flowFabricLikeLibrary } from "#test/support/flowfabric-like-library.ts";
import { createReadyQueue, drainReady } from "#test/support/ready.ts";
import { MINUTE_MS, SERVER_KINDS, useReconcilerServers } from "#test/support/reconcile.ts";
import { TcpProxy } from "#test/support/tcp-proxy.ts";
import { onEveryPrimary } from "#test/support/valkey.ts";

const BUNDLE = fileURLToPath(new URL("../../dist/reconcile/index.mjs", import.meta.url));
const SCHEDULED = { source: "aws.scheduler", "detail-type": "Scheduled Event", detail: {} };

/** Sweeps of so few partitions are fast. */
const FEW_PARTITIONS = new PartitionRouter();
const FEW = { FLOW_PARTITIONS: "256", RECONCILE_TASKS: "" };

describe.each(SERVER_KINDS)("the built reconcile function (%s)", (kind) => {
  const servers = useReconcilerServers(kind);
  const output: string[] = [];

  function start(environment: Record<string, string> = {}, timeoutMs = 30_000): FunctionProcess {
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
        RECONCILE_TASKS: "dependencies",
        ...environment,
      },
      timeoutMs,
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

  /** An execution whose attempt has run too long. */
  async function overdue(): Promise<{ readonly fixture: FlowFixture; readonly keys: ExecKeys }> {
    const fixture = new FlowFixture(servers().valkey, LANE, FEW_PARTITIONS);
    const keys = await fixture.member();
    await fixture.claim(keys);
    await fixture.read("zadd", fixture.index.attemptTimeout, Date.now() - MINUTE_MS, keys.id);
    return { fixture, keys };
  }

  it.each([15, 34] as const)(
    "runs only dependencies where FlowFabric's library is loaded (version %i), unless RECONCILE_TASKS names others",
    async (version) => {
      const { fixture, keys } = await overdue();
      await onEveryPrimary(servers().valkey, "function", "LOAD", "REPLACE", flowFabricLikeLibrary(version));
      try {
        await using fn = start(FEW);
        const answer = Object(await fn.invoke(SCHEDULED));
        expect(Object.keys(answer.tasks)).toEqual(["dependencies"]);
        expect(await stateOf(fixture, keys)).toBe("active");
        await using named = start({ ...FEW, RECONCILE_TASKS: "timeouts,dependencies" });
        expect(Object.keys(Object(await named.invoke(SCHEDULED)).tasks)).toEqual([
          "timeouts",
          "dependencies",
        ]);
        expect(await stateOf(fixture, keys)).toBe("expired");
      } finally {
        await onEveryPrimary(servers().valkey, "function", "FLUSH", "SYNC");
        await ensureLibrary(servers().valkey, servers().edition);
      }
    },
  );

  it("sends ready messages again to the queues of READY_QUEUES, also where FlowFabric's library is loaded", async () => {
    const { valkey, queue } = servers();
    const lane = unwrap(parseLaneId("images"));
    const fixture = new FlowFixture(valkey, lane, FEW_PARTITIONS);
    const keys = await fixture.member();
    await fixture.read("hset", keys.core, "last_transition_at", Date.now() - MINUTE_MS);
    const queueUrl = await createReadyQueue(queue.client, queue.queue);
    await onEveryPrimary(valkey, "function", "LOAD", "REPLACE", flowFabricLikeLibrary(34));
    try {
      // The lane is not in LANES: its queue suffices.
      await using fn = start({ ...FEW, READY_QUEUES: JSON.stringify({ [lane]: queueUrl }) });
      expect(await fn.invoke(SCHEDULED)).toMatchObject({
        state: "complete",
        tasks: { dependencies: {}, ready: { counts: { ReadyResent: 1 } } },
      });
      const message = { executionId: keys.id, flowId: fixture.flow.id, lane, kind: "task", root: keys.id };
      expect(await drainReady(queue.client, queueUrl)).toEqual([expect.objectContaining(message)]);
    } finally {
      await onEveryPrimary(valkey, "function", "FLUSH", "SYNC");
      await ensureLibrary(valkey, servers().edition);
    }
  });

  it("runs every task on Sluice's library, the most time-critical first, or those of RECONCILE_TASKS", async () => {
    const { fixture, keys } = await overdue();
    await using some = start({ ...FEW, RECONCILE_TASKS: "dependencies, leases" });
    expect(Object.keys(Object(await some.invoke(SCHEDULED)).tasks)).toEqual(["leases", "dependencies"]);
    expect(await stateOf(fixture, keys)).toBe("active");
    await using all = start(FEW);
    const names = Object.keys(Object(await all.invoke(SCHEDULED)).tasks);
    expect(names).toEqual(TASK_NAMES.filter((name) => names.includes(name)));
    expect(names).toEqual(expect.arrayContaining(["leases", "timeouts", "delays", "dependencies"]));
    expect(await stateOf(fixture, keys)).toBe("expired");
  });

  it("repeats time-critical tasks every RECONCILE_INTERVAL_SECONDS until its deadline", async () => {
    await using fn = start({ ...FEW, RECONCILE_INTERVAL_SECONDS: "1" }, 10_000);
    const run = fn.invoke(SCHEDULED);
    const fixture = new FlowFixture(servers().valkey, LANE, FEW_PARTITIONS);
    const dead = await fixture.member();
    await fixture.claim(dead, 500);
    // One after the other: a single sweep cannot expire both.
    for (const late of [await fixture.member(), await fixture.member()]) {
      await fixture.read("zadd", fixture.index.executionDeadline, Date.now() - MINUTE_MS, late.id);
      await vi.waitFor(async () => expect(await stateOf(fixture, late)).toBe("expired"), 20_000);
    }
    expect(await run).toMatchObject({ state: "complete", tasks: { timeouts: { scanned: 2 } } });
    // Available to another worker within lease TTL + interval + 5 s.
    expect(await fixture.read("hget", dead.core, "ownership_state")).toBe("lease_expired_reclaimable");
  });

  it("does nothing while another run has the lease", async () => {
    await acquireLease(servers().valkey);
    await using fn = start(FEW);
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
