import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { FunctionProcess } from "#local/function-process.ts";
import { startValkey, startValkeyCluster, type ValkeyServer } from "#local/valkey-server.ts";
import { librarySource } from "#lua/library.ts";
import { PARTITION_CONFIG_KEY } from "#shared/contract/keys.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { type ReceivedResponse, ResponseUrl } from "#test/support/response-url.ts";
import { TcpProxy } from "#test/support/tcp-proxy.ts";
import { connectTo, onEveryPrimary } from "#test/support/valkey.ts";

const BUNDLE = fileURLToPath(new URL("../../dist/provision/index.mjs", import.meta.url));
const STACK =
  "arn:aws:cloudformation:us-east-1:000000000000:stack/sluice-prod/1b2c3d4e-0000-0000-0000-000000000000";
const COUNTS = { num_flow_partitions: "256", num_budget_partitions: "32", num_quota_partitions: "32" };
const FOREIGN = `#!lua name=flowfabric
server.register_function{function_name='ff_version', callback=function() return '12' end, flags={'no-writes'}}
server.register_function{function_name='ff_of_another_kind', callback=function() return 1 end}`;
/** An earlier build of Sluice's library. */
const OLDER = `#!lua name=flowfabric
server.register_function{function_name='ff_version', callback=function() return '5' end, flags={'no-writes'}}`;

describe("the built provision function", () => {
  let answers: ResponseUrl;
  const servers = new Map<string, { server: ValkeyServer; valkey: Valkey }>();
  const output: string[] = [];

  beforeAll(async () => {
    answers = await ResponseUrl.start();
    for (const [kind, server] of [
      ["standalone", await startValkey()],
      ["cluster", await startValkeyCluster()],
    ] as const) {
      servers.set(kind, { server, valkey: connectTo({ url: server.url, cluster: kind === "cluster" }) });
    }
  });
  afterAll(async () => {
    for (const { server, valkey } of servers.values()) {
      valkey.close();
      await server.stop();
    }
    await answers[Symbol.asyncDispose]();
  });

  function start(environment: Record<string, string>, timeoutMs = 20_000): FunctionProcess {
    output.length = 0;
    return new FunctionProcess({
      functionName: "provision",
      bundle: BUNDLE,
      environment,
      timeoutMs,
      onOutput: (text) => output.push(text),
    });
  }

  const event = (type: string, more: Readonly<Record<string, unknown>> = {}) => ({
    RequestType: type,
    ResponseURL: answers.url,
    StackId: STACK,
    RequestId: `${type}-1`,
    LogicalResourceId: "ValkeyLibrary",
    ResourceType: "Custom::ValkeyLibrary",
    ResourceProperties: { LibraryHash: "0" },
    ...(type === "Create" ? {} : { PhysicalResourceId: "ValkeyLibrary" }),
    ...more,
  });

  /** Invokes the function and returns the response body that CloudFormation received. */
  async function ask(fn: FunctionProcess, type: string): Promise<ReceivedResponse["body"]> {
    await fn.invoke(event(type));
    const { method, path, contentType, bytes, body } = answers.only();
    expect([method, path, contentType]).toEqual(["PUT", "/answer?X-Amz-Signature=signed", ""]);
    expect(bytes).toBeLessThanOrEqual(4_096);
    expect(body).toMatchObject({
      StackId: STACK,
      RequestId: `${type}-1`,
      LogicalResourceId: "ValkeyLibrary",
      PhysicalResourceId: "ValkeyLibrary",
    });
    return body;
  }

  describe.each(["standalone", "cluster"])("on Valkey, %s", (kind) => {
    let valkey: Valkey;
    let environment: Record<string, string>;
    const primaries = kind === "cluster" ? "3" : "1";

    beforeAll(() => {
      const found = servers.get(kind);
      if (found === undefined) throw new Error(`no ${kind} server`);
      valkey = found.valkey;
      environment = {
        VALKEY_URL: found.server.url.href,
        VALKEY_CLUSTER_MODE: String(kind === "cluster"),
      };
    });

    /** Restores the state before the first deployment. */
    const reset = async (): Promise<void> => {
      await onEveryPrimary(valkey, "function", "FLUSH", "SYNC");
      await onEveryPrimary(valkey, "flushall");
    };
    const counts = () => valkey.call("hgetall", PARTITION_CONFIG_KEY);
    const versions = () => onEveryPrimary(valkey, "fcall", "ff_version", 0);
    const libraries = async () =>
      (await onEveryPrimary(valkey, "function", "LIST")).filter((list) => String(list) !== "").length;

    it("loads the library on every primary and records the counts; a second run changes nothing", async () => {
      await reset();
      await using fn = start(environment);
      const data = { LibraryVersion: "5", LibraryEdition: "11", Primaries: primaries };
      expect(await ask(fn, "Create")).toMatchObject({
        Status: "SUCCESS",
        Data: { ...data, Library: "loaded", Partitions: "created" },
      });
      expect(await counts()).toEqual(COUNTS);
      expect(await versions()).toEqual(Array(Number(primaries)).fill("5"));
      expect(await ask(fn, "Update")).toMatchObject({
        Status: "SUCCESS",
        Data: { ...data, Library: "current", Partitions: "recorded" },
      });
      expect(await ask(fn, "Delete")).toMatchObject({ Status: "SUCCESS" });
      expect(await counts()).toEqual(COUNTS);
      expect(await versions()).toHaveLength(Number(primaries));
    });

    it("completes a provisioning that recorded a count and loaded one primary before it died", async () => {
      await reset();
      await valkey.call("hset", PARTITION_CONFIG_KEY, "num_flow_partitions", "256");
      const [first] = await valkey.primaries();
      await first?.call("function", "LOAD", librarySource(11));
      await using fn = start(environment);
      expect(await ask(fn, "Create")).toMatchObject({ Status: "SUCCESS" });
      expect(await versions()).toEqual(Array(Number(primaries)).fill("5"));
      expect(await ask(fn, "Update")).toMatchObject({ Data: { Library: "current" } });
    });

    it("replaces an earlier build, and loads the configured edition", async () => {
      await reset();
      await onEveryPrimary(valkey, "function", "LOAD", OLDER);
      {
        await using fn = start(environment);
        expect(await ask(fn, "Update")).toMatchObject({ Data: { Library: "loaded", LibraryVersion: "5" } });
        expect(await ask(fn, "Update")).toMatchObject({ Data: { Library: "current" } });
      }
      await using other = start({ ...environment, LIBRARY_EDITION: "14" });
      expect(await ask(other, "Update")).toMatchObject({
        Data: { Library: "loaded", LibraryEdition: "14", LibraryVersion: "26" },
      });
    });

    it("does not replace a foreign library, and returns its version", async () => {
      await reset();
      await onEveryPrimary(valkey, "function", "LOAD", FOREIGN);
      await using fn = start(environment);
      expect(await ask(fn, "Create")).toMatchObject({
        Status: "SUCCESS",
        Data: { Library: "foreign", LibraryVersion: "12", LibraryEdition: "11" },
      });
      expect(await versions()).toEqual(Array(Number(primaries)).fill("12"));
    });

    it("fails on another partition count, and writes nothing", async () => {
      await reset();
      await valkey.call("hset", PARTITION_CONFIG_KEY, "num_flow_partitions", "64");
      await using fn = start(environment);
      const { Status, Reason } = await ask(fn, "Create");
      expect(Status).toBe("FAILED");
      expect(Reason).toMatch(/FLOW_PARTITIONS is 256, but ff:config:partitions records .*"64"/);
      expect(await counts()).toEqual({ num_flow_partitions: "64" });
      expect(await libraries()).toBe(0);
    });

    it("of two concurrent deployments with different counts, one succeeds and one fails", async () => {
      await reset();
      await using one = start({ ...environment, FLOW_PARTITIONS: "128" });
      await using other = start({ ...environment, FLOW_PARTITIONS: "512" });
      await Promise.all([one.invoke(event("Create")), other.invoke(event("Create"))]);
      const statuses = answers.received.splice(0).map(({ body }) => body.Status);
      expect(statuses.sort()).toEqual(["FAILED", "SUCCESS"]);
      expect(await counts()).toEqual({
        ...COUNTS,
        num_flow_partitions: expect.stringMatching(/^(128|512)$/),
      });
    });
  });

  it("fails with the address of a primary that lacks a foreign library", async () => {
    const cluster = servers.get("cluster");
    if (cluster === undefined) throw new Error("no cluster");
    await onEveryPrimary(cluster.valkey, "function", "FLUSH", "SYNC");
    await onEveryPrimary(cluster.valkey, "flushall");
    const [first, second] = await cluster.valkey.primaries();
    await first?.call("function", "LOAD", FOREIGN);
    await using fn = start({ VALKEY_URL: cluster.server.url.href, VALKEY_CLUSTER_MODE: "true" }, 4_000);
    const { Status, Reason } = await ask(fn, "Create");
    expect(Status).toBe("FAILED");
    expect(Reason).toMatch(
      /the primary 127\.0\.0\.1:\d+ has no usable flowfabric library: ERR Function not found/,
    );
    expect(Reason).not.toContain(String(first?.name));
    expect(await second?.call("function", "LIST")).toEqual([]);
  });

  it("fails without revealing the password if Valkey is unreachable or rejects it", async () => {
    await using guarded = await startValkey({ extraArgs: ["--requirepass", "right"] });
    for (const [url, reason] of [
      [`redis://default:S3cret@127.0.0.1:${guarded.port}`, /WRONGPASS/],
      ["redis://default:S3cret@127.0.0.1:9", /127\.0\.0\.1:9\b.*ECONNREFUSED/],
    ] as const) {
      await using fn = start({ VALKEY_URL: url }, 4_000);
      const { Status, Reason } = await ask(fn, "Create");
      expect(Status).toBe("FAILED");
      expect(Reason).toMatch(reason);
      expect(`${Reason} ${output.join("")}`).not.toContain("S3cret");
    }
  });

  it("responds before its timeout if Valkey is silent, and retries until Valkey is available", async () => {
    const standalone = servers.get("standalone");
    if (standalone === undefined) throw new Error("no server");
    await standalone.valkey.call("flushall");
    await using proxy = await TcpProxy.before(standalone.server.url);
    proxy.mode = "silent";
    await using fn = start({ VALKEY_URL: proxy.url.href }, 9_000);
    expect(await ask(fn, "Create")).toMatchObject({
      Status: "FAILED",
      Reason: expect.stringContaining(proxy.url.host),
    });
    proxy.mode = "refuse";
    proxy.cut();
    await using patient = start({ VALKEY_URL: proxy.url.href });
    const before = proxy.connections;
    const answered = ask(patient, "Create");
    await expect.poll(() => proxy.connections, { timeout: 10_000 }).toBeGreaterThan(before);
    proxy.mode = "pass";
    expect(await answered).toMatchObject({ Status: "SUCCESS" });
  });

  it("fails with every invalid variable, but succeeds on Delete", async () => {
    await using fn = start({ FLOW_PARTITIONS: "many" });
    const { Status, Reason } = await ask(fn, "Create");
    expect(Status).toBe("FAILED");
    expect(Reason).toMatch(/VALKEY_URL is not set[\s\S]*FLOW_PARTITIONS is "many"/);
    expect(await ask(fn, "Delete")).toMatchObject({ Status: "SUCCESS" });
  });

  it("responds to an unknown request type, and throws without a valid response URL", async () => {
    await using fn = start({ VALKEY_URL: "redis://127.0.0.1:9" });
    expect(await ask(fn, "Replace")).toMatchObject({
      Status: "FAILED",
      Reason: expect.stringContaining('RequestType is "Replace"'),
    });
    for (const invalid of [{}, null, "Create", event("Create", { ResponseURL: "file:///etc/passwd" })]) {
      await expect(fn.invoke(invalid)).rejects.toThrow(/no valid ResponseURL/);
    }
    expect(answers.received).toEqual([]);
  });

  it("retries a lost response, and fails the invocation if none is accepted", async () => {
    await using fn = start({}, 6_000);
    answers.next = ["cut", 503];
    await fn.invoke(event("Delete"));
    expect(answers.received.splice(0).map(({ body }) => body.Status)).toEqual(Array(3).fill("SUCCESS"));
    // A retry cannot renew an expired signature.
    answers.next = [403];
    await expect(fn.invoke(event("Delete"))).rejects.toThrow(/rejected the response: HTTP 403/);
    expect(answers.received.splice(0)).toHaveLength(1);
    const gone = await ResponseUrl.start();
    const { url } = gone;
    await gone[Symbol.asyncDispose]();
    const nowhere = event("Delete", { ResponseURL: url });
    const failure = await fn.invoke(nowhere).catch((error: unknown) => error);
    expect(String(failure)).toMatch(/CloudFormation at 127\.0\.0\.1:\d+ failed: connect ECONNREFUSED/);
    expect(`${failure} ${output.join("")}`).not.toContain("X-Amz-Signature");
  });
});
