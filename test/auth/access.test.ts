import { readFileSync } from "node:fs";
import { Redis } from "iovalkey";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Edition } from "#shared/contract/edition.ts";
import { readValkey } from "#shared/valkey/config.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { builtFunction } from "#test/auth/built.ts";
import { accessOf, KINDS, type Kind, SecuredValkey } from "#test/auth/secured.ts";
import { WORK } from "#test/auth/work.ts";
import { QueueProbe } from "#test/support/dispatch.ts";
import { LANE } from "#test/support/flow-fixture.ts";
import { unloadLibrary } from "#test/support/library.ts";
import { connectTo, onEveryPrimary } from "#test/support/valkey.ts";

const PASSWORD = "of-the-function";
const DOCS = new URL("../../docs/valkey-access.md", import.meta.url);
const FUNCTIONS = Object.keys(WORK);

const rulesOf = (name: string, mark: string): string[] =>
  accessOf(name)
    .filter((rule) => rule.startsWith(mark))
    .map((rule) => rule.slice(1));

describe("access.json", () => {
  let queue: QueueProbe;
  const servers = new Map<Kind, SecuredValkey>();
  /** Commands and keys used by the functions, over all tests. */
  const commands = new Map(FUNCTIONS.map((name) => [name, new Set<string>()]));
  const keys = new Map(FUNCTIONS.map((name) => [name, new Set<string>()]));

  beforeAll(async () => {
    queue = await QueueProbe.start();
    for (const kind of KINDS) servers.set(kind, await SecuredValkey.start(kind, 1));
  });
  afterAll(async () => {
    for (const server of servers.values()) await server[Symbol.asyncDispose]();
    await queue[Symbol.asyncDispose]();
  });

  const serverOf = (kind: Kind): SecuredValkey => {
    const server = servers.get(kind);
    if (server === undefined) throw new Error(`no ${kind} server`);
    return server;
  };

  const cases = FUNCTIONS.flatMap((name) =>
    KINDS.flatMap((kind) => ([11, 14] as const).map((edition) => [name, kind, edition] as const)),
  );

  it.each(cases)("allows all work of %s (%s, %i KEYS)", async (name, kind, edition: Edition) => {
    const server = serverOf(kind);
    const admin = connectTo(server.plain);
    try {
      await unloadLibrary(admin);
      await ensureLibrary(admin, edition);
      const work = await WORK[name]?.(admin, edition, queue);
      // The function must then load the library itself.
      await onEveryPrimary(admin, "function", "FLUSH", "SYNC");
      await server.setUser(`sluice-${name}`, PASSWORD, accessOf(name));
      await using watched = await server.watch();
      const environment = server.as(`sluice-${name}`, PASSWORD);
      await using fn = builtFunction(name, queue, {
        ...environment,
        FLOW_PARTITIONS: "",
        LIBRARY_EDITION: String(edition),
        // The messages are not read.
        READY_QUEUES: JSON.stringify({ [LANE]: queue.queue.deadLetterQueueUrl }),
      });
      const own = connectTo(readValkey(environment, []));
      await work?.(fn, own);
      own.close();
      for (const command of await server.commandsRun()) commands.get(name)?.add(command);
      for (const key of watched.keys) keys.get(name)?.add(key);
      // The client ignores some refused commands: expect that there were none of them either.
      expect(await server.refusals()).toEqual([]);
    } finally {
      admin.close();
    }
  });

  it.each(FUNCTIONS)("allows only commands and key patterns that %s uses", (name) => {
    const used = [...(commands.get(name) ?? [])];
    expect(rulesOf(name, "+").toSorted()).toEqual(used.toSorted());
    const touched = [...(keys.get(name) ?? [])];
    const prefixes = rulesOf(name, "~").map((pattern) => pattern.replace(/\*$/, ""));
    expect(prefixes.filter((prefix) => !touched.some((key) => key.startsWith(prefix)))).toEqual([]);
  });

  it.each(FUNCTIONS)("denies %s everything else", async (name) => {
    const server = serverOf("standalone");
    await server.setUser(`sluice-${name}`, PASSWORD, accessOf(name));
    const { hostname, port } = server.plain.url;
    const client = new Redis({
      host: hostname,
      port: Number(port),
      username: `sluice-${name}`,
      password: PASSWORD,
    });
    try {
      for (const [command, ...args] of [
        ["flushall"],
        ["keys", "*"],
        ["config", "GET", "*"],
        ["acl", "WHOAMI"],
        ["function", "FLUSH"],
        ["function", "DELETE", "flowfabric"],
        ["subscribe", "ff:dag:completions"],
        ["hgetall", "ff:config:partitions"],
        ["get", "of:another:application"],
        ["fcall", "ff_version", "1", "of:another:application"],
      ] as const) {
        await expect(client.call(command, [...args])).rejects.toThrow(/^NOPERM/);
      }
    } finally {
      client.disconnect();
    }
  });

  it("also restricts commands inside Valkey functions", async () => {
    const server = serverOf("standalone");
    const admin = connectTo(server.plain);
    await unloadLibrary(admin);
    await ensureLibrary(admin, 11);
    admin.close();
    const rules = accessOf("dispatch").filter((rule) => rule !== "+hmget");
    await server.setUser("without-hmget", PASSWORD, rules);
    const { hostname, port } = server.plain.url;
    const client = new Redis({
      host: hostname,
      port: Number(port),
      username: "without-hmget",
      password: PASSWORD,
    });
    const call = client.call("fcall", [
      ...[
        "ff_resolve_dependency",
        "11",
        ...Array.from({ length: 11 }, (_, index) => `ff:exec:{fp:1}:${index}`),
      ],
      ...["edge", "success", "1"],
    ]);
    await expect(call.finally(() => client.disconnect())).rejects.toThrow(/ACL failure in script.*hmget/);
  });

  it.each(FUNCTIONS)("equals the documentation for %s", (name) => {
    expect(readFileSync(DOCS, "utf8").replaceAll(/\s+/g, " ")).toContain(accessOf(name).join(" "));
  });
});
