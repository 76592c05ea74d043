/** `sluice doctor` on Valkey and what is stored in it: a healthy deployment, and one planted trouble for each code. */

import { once } from "node:events";
import { mkdir, rmdir } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { startValkey } from "#local/valkey-server.ts";
import { librarySource } from "#lua/library.ts";
import { LIBRARY_REVISION } from "#lua/revision.ts";
import { parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { EDITION_KEY, LANES_KEY, PARTITION_CONFIG_KEY } from "#shared/contract/keys.ts";
import { LAST_RUN_KEY } from "#shared/reconcile/lease.ts";
import type { ValkeyNode } from "#shared/valkey/client.ts";
import {
  diagnose,
  type HealthyValkey,
  reconcilerRan,
  type ServerKind,
  startHealthyValkey,
} from "#test/cli/doctor-bed.ts";
import { environmentFor, sluice } from "#test/cli/support.ts";
import { FlowFixture, ROUTER } from "#test/support/flow-fixture.ts";
import { flowFabricLikeLibrary } from "#test/support/flowfabric-like-library.ts";
import { releaseOfRevision } from "#test/support/library.ts";
import { startProxiedValkey } from "#test/support/proxied-valkey.ts";
import { RewritingProxy } from "#test/support/rewriting-proxy.ts";
import { DEPLOYMENTS, onEveryPrimary } from "#test/support/valkey.ts";

const KINDS: readonly ServerKind[] = ["standalone", "cluster"];
const START_TIMEOUT = 60_000;

describe.each(KINDS)("sluice doctor on a healthy deployment (%s)", (kind) => {
  let healthy: HealthyValkey;
  beforeAll(async () => {
    healthy = await startHealthyValkey(kind);
  }, START_TIMEOUT);
  afterAll(() => healthy[Symbol.asyncDispose]());

  const diagnosis = (variables: Record<string, string> = {}, ...args: string[]) =>
    diagnose({ ...healthy.environment, ...variables }, ...args);

  /** One of the primaries. */
  async function primary(): Promise<ValkeyNode> {
    const [node] = await healthy.valkey.primaries();
    if (node === undefined) throw new Error("no primary");
    return node;
  }

  /** Changes a setting on one primary while `run` runs. */
  async function withConfig<T>(name: string, value: string, run: () => Promise<T>): Promise<T> {
    const node = await primary();
    const before = await node.call("config", "GET", name);
    await node.call("config", "SET", name, value);
    try {
      return await run();
    } finally {
      await node.call("config", "SET", name, Array.isArray(before) ? String(before[1]) : "");
    }
  }

  /** Replaces the library of one primary while `run` runs. */
  async function withLibrary<T>(source: string | undefined, run: () => Promise<T>): Promise<T> {
    const node = await primary();
    if (source === undefined) await node.call("function", "FLUSH", "SYNC");
    else await node.call("function", "LOAD", "REPLACE", source);
    try {
      return await run();
    } finally {
      await node.call("function", "LOAD", "REPLACE", librarySource(14));
    }
  }

  /** A new flow with two executions and an edge. */
  async function flow() {
    const fixture = new FlowFixture(healthy.valkey, undefined, ROUTER, 14);
    const [up, down] = [await fixture.member(), await fixture.member()];
    const edge = await fixture.edge(up, down);
    return { fixture, up, down, edge };
  }

  it("finds nothing, and says what it could not check", async () => {
    await flow();
    const { output, reasonOf } = await diagnosis();
    expect(output.findings).toEqual([]);
    expect(reasonOf("triggers")).toContain("no queue is named");
    const made = output.checks.filter(({ status }) => status === "ok").map(({ name }) => name);
    expect(made).toEqual([
      "valkey",
      "version",
      "cluster",
      "library",
      "partitions",
      "memory",
      "durability",
      "clock",
      "reconciler",
      "indexes",
    ]);
    expect((await diagnosis({}, "--full")).output.findings).toEqual([]);
  });

  it("reports a refused user", async () => {
    const url = new URL(String(healthy.environment.VALKEY_URL));
    url.username = "unknown";
    url.password = "wrong";
    // A cluster's client reports the refusal with each node that it asked.
    const { codes, output } = await diagnosis({ VALKEY_URL: url.href });
    expect(codes).toEqual(["valkey_refused"]);
    expect(JSON.stringify(output)).not.toContain("wrong@");
  });

  it("reports the wrong cluster mode", async () => {
    const { codes, finding } = await diagnosis({ VALKEY_CLUSTER_MODE: String(kind !== "cluster") });
    expect(codes).toContain("cluster_mode_wrong");
    expect(finding("cluster_mode_wrong")?.remedy).toContain(`VALKEY_CLUSTER_MODE=${kind === "cluster"}`);
  });

  it("reports a primary without a library", async () => {
    const { codes, finding } = await withLibrary(undefined, () => diagnosis());
    expect(codes).toEqual(["library_missing"]);
    expect(finding("library_missing")?.where).toBe((await primary()).name);
  });

  it.each([
    { code: "library_outdated", revision: LIBRARY_REVISION - 1 },
    { code: "library_newer", revision: LIBRARY_REVISION + 1 },
  ])("reports $code", async ({ code, revision }) => {
    const { codes } = await withLibrary(releaseOfRevision(revision).source(14), () => diagnosis());
    expect(codes).toEqual([code]);
  });

  it("reports a library of an unknown version, unless its edition is configured", async () => {
    const source = flowFabricLikeLibrary(34).replace("LIBRARY_VERSION = '34'", "LIBRARY_VERSION = '20'");
    await withLibrary(source, async () => {
      expect((await diagnosis()).codes).toEqual(["library_unknown"]);
      expect((await diagnosis({ LIBRARY_EDITION: "14" })).codes).toEqual([]);
    });
  });

  it("accepts FlowFabric's own library", async () => {
    expect((await withLibrary(flowFabricLikeLibrary(34), () => diagnosis())).codes).toEqual([]);
  });

  it("reports an edition that is not the recorded one, or differs between primaries", async () => {
    const { codes } = await withLibrary(librarySource(11), () => diagnosis());
    expect(codes).toEqual([kind === "cluster" ? "library_editions_differ" : "library_edition_wrong"]);
  });

  it("reports an edition that is not the configured one", async () => {
    expect((await diagnosis({ LIBRARY_EDITION: "11" })).codes).toEqual(["library_edition_wrong"]);
    expect(await healthy.valkey.call("get", EDITION_KEY)).toBe("14");
  });

  it("reports another partition count than the recorded one", async () => {
    const { codes, finding } = await diagnosis({ FLOW_PARTITIONS: "128" });
    expect(codes).toEqual(["partitions_differ"]);
    expect(finding("partitions_differ")?.remedy).toBe(`set FLOW_PARTITIONS=${ROUTER.numFlowPartitions}`);
  });

  it("reports an unrecorded partition count", async () => {
    await healthy.valkey.call("del", PARTITION_CONFIG_KEY);
    try {
      expect((await diagnosis()).codes).toEqual(["partitions_unrecorded"]);
    } finally {
      await healthy.valkey.call(
        "hset",
        PARTITION_CONFIG_KEY,
        "num_flow_partitions",
        ROUTER.numFlowPartitions,
      );
    }
  });

  it("reports an eviction policy", async () => {
    const { codes } = await withConfig("maxmemory-policy", "volatile-lru", () => diagnosis());
    expect(codes).toEqual(["eviction_policy"]);
  });

  it.each([
    { code: "memory_low", share: 0.85 },
    { code: "memory_full", share: 0.98 },
  ])("reports $code", async ({ code, share }) => {
    const info = String(await (await primary()).call("info", "memory"));
    const used = Number(/^used_memory:(\d+)/m.exec(info)?.[1]);
    const { codes } = await withConfig("maxmemory", String(Math.round(used / share)), () => diagnosis());
    expect(codes).toEqual([code]);
  });

  it("reports a server without a memory limit", async () => {
    expect((await withConfig("maxmemory", "0", () => diagnosis())).codes).toEqual(["memory_unlimited"]);
  });

  it("reports a snapshot that cannot be written", async () => {
    const node = await primary();
    const folder = await node.call("config", "GET", "dir");
    // The snapshot cannot replace a folder.
    const obstacle = join(Array.isArray(folder) ? String(folder[1]) : "", "dump.rdb");
    const save = async (): Promise<void> => {
      await node.call("bgsave");
      await vi.waitUntil(
        async () => String(await node.call("info", "persistence")).includes("rdb_bgsave_in_progress:0"),
        { timeout: 10_000, interval: 50 },
      );
    };
    await mkdir(obstacle);
    try {
      await save();
      expect((await diagnosis()).codes).toEqual(["persistence_failing"]);
    } finally {
      await rmdir(obstacle);
      await save();
    }
    expect((await diagnosis()).codes).toEqual([]);
  });

  it("reports a replica that is not in sync", async () => {
    const [{ port } = { port: 0 }] = healthy.primaries;
    const node = await primary();
    // The transfer waits for more replicas: this one stays without data.
    await withConfig("repl-diskless-sync-delay", "3600", async () => {
      const replica = connect(port, "127.0.0.1");
      try {
        replica.write("REPLCONF capa eof\r\n");
        await once(replica, "data");
        replica.write("PSYNC ? -1\r\n");
        await vi.waitUntil(async () => /slave1:/.test(String(await node.call("info", "replication"))), {
          timeout: 10_000,
          interval: 50,
        });
        const { codes, finding } = await diagnosis();
        expect(codes).toEqual(["replica_behind"]);
        expect(finding("replica_behind")?.what).toContain("wait_bgsave");
      } finally {
        replica.destroy();
        await vi.waitUntil(async () => !/slave1:/.test(String(await node.call("info", "replication"))), {
          timeout: 10_000,
          interval: 50,
        });
      }
    });
  });

  it.each([
    { code: "clock_skew", offsetMs: 5_000 },
    { code: "clock_skew", offsetMs: -5_000 },
    { code: "clock_wrong", offsetMs: 60_000 },
  ])("reports $code with a clock that is $offsetMs ms off", async ({ code, offsetMs }) => {
    const now = Date.now.bind(Date);
    const clock = vi.spyOn(Date, "now").mockImplementation(() => now() + offsetMs);
    try {
      const { codes, finding } = await diagnosis();
      expect(codes).toEqual([code]);
      expect(finding(code as "clock_skew")?.what).toContain(offsetMs > 0 ? "behind" : "ahead of");
    } finally {
      clock.mockRestore();
    }
  });

  it("reports a lane that the reconciler does not know", async () => {
    const lane = unwrap(parseLaneId("hidden"));
    const fixture = new FlowFixture(healthy.valkey, lane, ROUTER, 14);
    await fixture.member();
    for (const args of [[], ["--full"]]) {
      const { codes, finding } = await diagnosis({}, ...args);
      expect(codes).toEqual(["lane_unrecorded"]);
      expect(finding("lane_unrecorded")?.what).toContain('"hidden"');
    }
    expect((await diagnosis({ LANES: "default,hidden" })).codes).toEqual([]);
    await healthy.valkey.call("sadd", LANES_KEY, "hidden");
    expect((await diagnosis()).codes).toEqual([]);
  });

  it("reports a recorded lane without a valid name", async () => {
    await healthy.valkey.call("sadd", LANES_KEY, "");
    try {
      expect((await diagnosis()).codes).toEqual(["lane_invalid"]);
    } finally {
      await healthy.valkey.call("srem", LANES_KEY, "");
    }
  });

  it("reports an index entry that disagrees with its record, in a sample and in full", async () => {
    const { fixture, up } = await flow();
    const { eligible, delayed } = fixture.index.lane(fixture.lane);
    const score = String(await fixture.read("zscore", eligible, up.id));
    await fixture.read("zrem", eligible, up.id);
    await fixture.read("zadd", delayed, 1, up.id);
    for (const args of [[], ["--full"]]) {
      const { codes, output } = await diagnosis({}, ...args);
      expect(codes).toEqual(["index_inconsistent"]);
      const texts = output.findings.map(({ what }) => what).join("\n");
      expect(texts).toContain(`missing_entry in ${eligible}, ${up.id}`);
      expect(texts).toContain(`stale_entry in ${delayed}, ${up.id}`);
    }
    await fixture.read("zrem", delayed, up.id);
    await fixture.read("zadd", eligible, score, up.id);
    expect((await diagnosis()).codes).toEqual([]);
  });

  it("reports an execution that nothing can release, and an edge that is not applied", async () => {
    const { fixture, down, edge } = await flow();
    await fixture.read("hset", down.dep(edge.id), "state", "satisfied");
    expect((await diagnosis()).codes).toContain("execution_stuck");
    await fixture.read("hset", down.dep(edge.id), "state", "unsatisfied");
    expect((await diagnosis()).codes).toEqual([]);
    // As old as a submission that was given up.
    const [late, third] = [await fixture.member(), await fixture.member()];
    await fixture.stage(fixture.newEdge(late, third));
    await fixture.read("hset", fixture.flow.core, "last_mutation_at", "1000");
    expect((await diagnosis()).codes).toEqual(["edge_unapplied"]);
    await fixture.read("hset", fixture.flow.core, "last_mutation_at", "3000000000000");
  });

  it("reports a reconciler that never ran, or not recently", async () => {
    await healthy.valkey.call("del", LAST_RUN_KEY);
    expect((await diagnosis()).codes).toEqual(["reconciler_silent"]);
    await healthy.valkey.call("set", LAST_RUN_KEY, Date.now() - 3_600_000);
    const { codes, finding } = await diagnosis();
    expect(codes).toEqual(["reconciler_silent"]);
    expect(finding("reconciler_silent")?.what).toContain("60 minutes ago");
    await reconcilerRan(healthy.valkey);
    expect((await diagnosis()).codes).toEqual([]);
  });

  it("reports a permission that the caller lacks, and makes the other checks", async () => {
    await onEveryPrimary(
      healthy.valkey,
      ...(["acl", "SETUSER", "limited", "on", ">pw", "~*", "&*", "+@all", "-function|list"] as const),
    );
    const url = new URL(String(healthy.environment.VALKEY_URL));
    url.username = "limited";
    url.password = "pw";
    const { codes, finding, output } = await diagnosis({ VALKEY_URL: url.href, FLOW_PARTITIONS: "128" });
    expect(codes.toSorted()).toEqual(["partitions_differ", "permission_missing"]);
    expect(finding("permission_missing")?.remedy).toContain("FUNCTION LIST");
    expect(output.checks.filter(({ status }) => status === "ok").length).toBeGreaterThan(6);
  });

  it("prints findings and remedies for a person", async () => {
    const { code, stdout } = await sluice(["doctor"], {
      environment: { ...healthy.environment, FLOW_PARTITIONS: "128" },
    });
    expect(code).toBe(1);
    expect(stdout).toContain("✗ error  partitions_differ  ff:config:partitions\n");
    expect(stdout).toContain(`  → set FLOW_PARTITIONS=${ROUTER.numFlowPartitions}\n`);
    expect(stdout).toMatch(/\n\d+ checks, 1 error, 0 warnings\n$/);
  });
});

describe("sluice doctor on a cluster", () => {
  let healthy: HealthyValkey;
  beforeAll(async () => {
    healthy = await startHealthyValkey("cluster");
  }, START_TIMEOUT);
  afterAll(() => healthy[Symbol.asyncDispose]());

  it("reports slots without a primary", async () => {
    const [node] = await healthy.valkey.primaries();
    const slots = await node?.call("cluster", "SLOTS");
    const [first] = (Array.isArray(slots) ? slots : []).map((range: unknown) => Object(range)[0]);
    await onEveryPrimary(healthy.valkey, "cluster", "DELSLOTS", first);
    const { finding } = await diagnose(healthy.environment);
    expect(finding("cluster_slots_unserved")?.what).toBe("1 slots have no primary");
  });

  it("reports required full coverage to an administrator, who may read the configuration", async () => {
    await onEveryPrimary(healthy.valkey, "config", "SET", "cluster-require-full-coverage", "yes");
    const rules = ["on", ">pw", "~*", "+@all"];
    await onEveryPrimary(healthy.valkey, "acl", "SETUSER", "administrator", ...rules);
    const url = new URL(String(healthy.environment.VALKEY_URL));
    url.username = "administrator";
    url.password = "pw";
    const { codes } = await diagnose({ ...healthy.environment, VALKEY_URL: url.href });
    expect(codes).toContain("cluster_full_coverage");
    expect((await diagnose(healthy.environment)).codes).not.toContain("permission_missing");
  });

  it("reports a primary that is down, and checks the other one", async () => {
    await using proxied = await startProxiedValkey("cluster");
    const [, second] = proxied.proxies;
    if (second === undefined) throw new Error("the cluster has one node");
    second.mode = "refuse";
    second.cut();
    const { codes, finding, output } = await diagnose({
      VALKEY_URL: proxied.address.url.href,
      VALKEY_CLUSTER_MODE: "true",
    });
    expect(finding("valkey_node_unreachable")?.where).toBe(second.url.host);
    expect(codes).toContain("library_missing");
    expect(output.findings.filter(({ code }) => code === "check_failed")).toEqual([]);
  });
});

describe("sluice doctor on a server", () => {
  it.each([
    { name: "refuses connections", mode: "refuse" as const },
    { name: "does not answer", mode: "silent" as const },
  ])("that $name says so, and makes the other checks", async ({ mode }) => {
    await using proxied = await startProxiedValkey("standalone");
    const [proxy] = proxied.proxies;
    if (proxy !== undefined) proxy.mode = mode;
    const { codes, output, reasonOf } = await diagnose({ VALKEY_URL: proxied.address.url.href });
    expect(codes).toEqual(["valkey_unreachable"]);
    expect(reasonOf("library")).toBe("Valkey does not answer");
    expect(output.checks.find(({ name }) => name === "queues")?.reason).toContain("no queue is named");
  });

  it("that is too old says so", async () => {
    await using server = await startValkey();
    await using proxy = await RewritingProxy.before(server.url, (text) =>
      // Of the same length, since the reply's length is not rewritten.
      text.replace(/valkey_version:(\d)\.\d\.(\d+)/, (_, __, rest: string) => `valkey_version:7.1.${rest}`),
    );
    const { finding } = await diagnose({ VALKEY_URL: proxy.url.href });
    expect(finding("valkey_version_old")?.what).toMatch(/^Valkey 7\.1\./);
  });

  it("that has evicted keys says so", async () => {
    await using server = await startValkey({
      extraArgs: ["--maxmemory", "4mb", "--maxmemory-policy", "allkeys-lru"],
    });
    await using proxied = new AsyncDisposableStack();
    const valkey = proxied.adopt(connect(server.port, "127.0.0.1"), (socket) => void socket.destroy());
    valkey.write(`EVAL "for i = 1, 200 do redis.call('SET', 'k' .. i, string.rep('x', 100000)) end" 0\r\n`);
    valkey.write("CONFIG SET maxmemory-policy noeviction\r\n");
    await vi.waitUntil(() => valkey.bytesRead >= "$-1\r\n+OK\r\n".length, { timeout: 10_000, interval: 20 });
    const { codes } = await diagnose({ VALKEY_URL: server.url.href });
    expect(codes).toContain("keys_evicted");
    expect(codes).not.toContain("eviction_policy");
  });

  it("without replicas says what that means", async () => {
    await using server = await startValkey({ extraArgs: ["--appendonly", "yes"] });
    const { codes } = await diagnose({ VALKEY_URL: server.url.href, SLUICE_STAGE: "prod" });
    expect(codes).toContain("replica_missing");
    expect(codes).not.toContain("not_durable");
  });
});

describe.each(DEPLOYMENTS)("sluice doctor on a local stack ($name)", (deployment) => {
  it("does not ask for what a local stack lacks, and says so", async () => {
    const local = await diagnose(environmentFor(deployment));
    for (const code of ["not_durable", "memory_unlimited", "reconciler_silent"] as const) {
      expect(local.codes).not.toContain(code);
    }
    expect(local.reasonOf("durability")).toContain("local");
    expect(local.reasonOf("reconciler")).toContain("local");
    expect(local.reasonOf("memory")).toContain("local");
    const deployed = await diagnose({ ...environmentFor(deployment), SLUICE_STAGE: "prod" });
    expect(deployed.codes).toEqual(
      expect.arrayContaining(["not_durable", "memory_unlimited", "reconciler_silent"]),
    );
  });
});
