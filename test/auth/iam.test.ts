import { readFileSync } from "node:fs";
import { setTimeout as pass } from "node:timers/promises";
import { Redis } from "iovalkey";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import type { FunctionProcess } from "#local/function-process.ts";
import { command } from "#shared/contract/command.ts";
import type { Partition } from "#shared/contract/ids.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { readValkey } from "#shared/valkey/config.ts";
import { iamToken } from "#shared/valkey/iam-token.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { SessionProvider } from "#shared/valkey/session.ts";
import { builtFunction, dispatchOne } from "#test/auth/built.ts";
import { FakeElastiCache, type IamRules } from "#test/auth/fake-elasticache.ts";
import { AUTHORITY, accessOf, KINDS, SecuredValkey } from "#test/auth/secured.ts";
import { QueueProbe } from "#test/support/dispatch.ts";
import { connectTo } from "#test/support/valkey.ts";

const USER = "sluice-dispatch";
const KEY = {
  AWS_ACCESS_KEY_ID: "AKIAFUNCTION",
  AWS_SECRET_ACCESS_KEY: "S3cretKey",
  AWS_SESSION_TOKEN: "S/e+ssion=",
};
const TOKEN_LIFETIME_MS = 3_000;

function rules(overrides: Partial<IamRules> = {}): IamRules {
  const account = { secretAccessKey: KEY.AWS_SECRET_ACCESS_KEY, sessionToken: KEY.AWS_SESSION_TOKEN };
  return {
    replicationGroup: "Sluice-Tests",
    region: "eu-west-1",
    user: USER,
    password: "of-the-front",
    accounts: new Map([[KEY.AWS_ACCESS_KEY_ID, account]]),
    tokenLifetimeMs: TOKEN_LIFETIME_MS,
    ...overrides,
  };
}

describe.each(KINDS)("IAM authentication (%s)", (kind) => {
  let queue: QueueProbe;
  let server: SecuredValkey;
  let admin: Valkey;

  beforeAll(async () => {
    queue = await QueueProbe.start();
    server = await SecuredValkey.start(kind);
    await server.setUser(USER, rules().password, accessOf("dispatch"));
    admin = connectTo(server.plain);
    await ensureLibrary(admin);
  });
  afterAll(async () => {
    admin.close();
    await server[Symbol.asyncDispose]();
    await queue[Symbol.asyncDispose]();
  });
  afterEach(() => vi.unstubAllEnvs());

  const output: string[] = [];

  function start(elastiCache: FakeElastiCache, environment: Record<string, string> = {}): FunctionProcess {
    output.length = 0;
    const all = { ...elastiCache.environment, ...KEY, ...environment };
    return builtFunction("dispatch", queue, all, (text) => output.push(text));
  }

  /** Creates a client in this process, with the credentials of this process. */
  function clientOf(elastiCache: FakeElastiCache): Valkey {
    for (const [name, value] of Object.entries(KEY)) vi.stubEnv(name, value);
    const errors: string[] = [];
    const address = readValkey(elastiCache.environment, errors);
    expect(errors).toEqual([]);
    return new Valkey(address, { onConnectionError: () => undefined });
  }

  it("authenticates the built function, and again with new tokens after the first have expired", async () => {
    await using elastiCache = await FakeElastiCache.before(server, rules());
    await using fn = start(elastiCache);
    await dispatchOne(fn, admin);
    const { length: first } = elastiCache.accepted;
    expect(first).toBeGreaterThanOrEqual(kind === "cluster" ? 2 : 1);
    await pass(TOKEN_LIFETIME_MS);
    elastiCache.cut();
    await dispatchOne(fn, admin);
    expect(elastiCache.refused).toEqual([]);
    const [before, after] = [elastiCache.accepted.slice(0, first), elastiCache.accepted.slice(first)];
    expect(after.length).toBeGreaterThanOrEqual(1);
    expect(after.filter((token) => before.includes(token))).toEqual([]);
  });

  if (kind === "cluster") {
    it("creates a new token for a later connection to a node", async () => {
      await using elastiCache = await FakeElastiCache.before(server, rules());
      const valkey = clientOf(elastiCache);
      try {
        // Until the first command for it, the client connects to no node but the one of its address.
        await valkey.primaries();
        const { length: first } = elastiCache.accepted;
        await pass(TOKEN_LIFETIME_MS);
        await askEverywhere(valkey);
        expect(elastiCache.accepted).toHaveLength(first + 1);
        expect(elastiCache.refused).toEqual([]);
      } finally {
        valkey.close();
      }
    });
  }

  it("replaces a client before ElastiCache closes its connections, and loses none in use", async () => {
    const connectionLifetimeMs = 1_200;
    await using elastiCache = await FakeElastiCache.before(server, rules({ connectionLifetimeMs }));
    const clients: Valkey[] = [];
    const keeper = new SessionProvider(
      () => {
        const valkey = clientOf(elastiCache);
        clients.push(valkey);
        return valkey;
      },
      async () => undefined,
      connectionLifetimeMs / 4,
    );
    const end = Date.now() + 2 * connectionLifetimeMs;
    while (Date.now() < end) await askEverywhere((await keeper.get()).valkey);
    expect(clients.length).toBeGreaterThan(4);
    for (const valkey of clients) valkey.close();
  });

  it("reports the rejected user and the reason without the token, and recovers with the next event", async () => {
    const mistaken = rules();
    const { accounts } = mistaken;
    const [[id, account] = ["", { secretAccessKey: "" }]] = accounts;
    accounts.set(id, { ...account, secretAccessKey: "another" });
    await using elastiCache = await FakeElastiCache.before(server, mistaken);
    await using fn = start(elastiCache);
    const failure = await fn.invoke({ Records: [] }).catch(String);
    expect(failure).toMatch(/localhost:\d+ rejected the user "sluice-dispatch": WRONGPASS/);
    expect(new Set(elastiCache.refused)).toEqual(new Set(["the signature is wrong"]));
    for (const secret of ["X-Amz-Signature", KEY.AWS_SECRET_ACCESS_KEY, KEY.AWS_SESSION_TOKEN]) {
      expect(`${failure} ${output.join("")}`).not.toContain(secret);
    }
    accounts.set(id, account);
    await dispatchOne(fn, admin);
  });

  it.each([
    ["has expired", {}, new Date(Date.now() - TOKEN_LIFETIME_MS), /the token is \d+ ms old/],
    ["is for another user", { user: "other-user" }, undefined, /the token is for the user other-user/],
    ["is for another group", { replicationGroup: "other" }, undefined, /the token is for other\//],
    ["is for another region", { region: "us-east-1" }, undefined, /the scope is us-east-1/],
  ])("is refused with a token that %s", async (_, other, signedAt, reason) => {
    await using elastiCache = await FakeElastiCache.before(server, rules());
    const password = await iamToken({ ...rules(), ...other }, KEY, signedAt);
    const { hostname: host, port } = new URL(elastiCache.environment.VALKEY_URL ?? "");
    const tls = { ca: readFileSync(AUTHORITY) };
    const client = new Redis({ host, port: Number(port), lazyConnect: true, enableReadyCheck: false, tls });
    await expect(client.auth(USER, password)).rejects.toThrow(/WRONGPASS/);
    client.disconnect();
    expect(elastiCache.refused).toEqual([expect.stringMatching(reason)]);
  });

  it("fails with the reason if there are no AWS credentials", async () => {
    await using elastiCache = await FakeElastiCache.before(server, rules());
    await using fn = start(elastiCache, { AWS_SECRET_ACCESS_KEY: "" });
    await expect(fn.invoke({ Records: [] })).rejects.toThrow(/ValkeyError.*cannot sign a token/);
    expect(elastiCache.accepted).toEqual([]);
  });
});

/** Sends a read to every node. */
async function askEverywhere(valkey: Valkey): Promise<void> {
  const partitions = Array.from({ length: 16 }, (_, partition) => partition as Partition);
  const results = await valkey.pipelined(
    partitions.map((partition) => command(partition, "get", `ff:exec:{fp:${partition}}:none`)),
  );
  expect(results).toEqual(partitions.map(() => ({ ok: true, value: null })));
}
