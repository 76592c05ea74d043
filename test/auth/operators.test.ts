/** The Valkey users of operate-read and operate-write. The tests of operations and commands run as them. */

import { readFileSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Redis } from "iovalkey";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { accessOf, SecuredValkey } from "#test/auth/secured.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const OPERATE = ["operate-read", "operate-write"] as const;
const PASSWORD = "of-the-function";
/** What the client of Valkey runs by itself. */
const OF_THE_CLIENT = ["info", "cluster|slots", "function|list", "function|load"];

const commandsOf = (name: string): string[] =>
  accessOf(name)
    .filter((rule) => rule.startsWith("+"))
    .map((rule) => rule.slice(1));

/** The code of a built function: all its modules. */
async function codeOf(name: string): Promise<string> {
  const folder = join(ROOT, "dist", name);
  const files = (await readdir(folder)).filter((file) => file.endsWith(".mjs"));
  return (await Promise.all(files.map((file) => readFile(join(folder, file), "utf8")))).join("\n");
}

describe("the users of operators", () => {
  let server: SecuredValkey;
  const clients = new Map<string, Redis>();
  beforeAll(async () => {
    server = await SecuredValkey.start("standalone");
    const { hostname, port } = server.plain.url;
    for (const name of OPERATE) {
      await server.setUser(name, PASSWORD, accessOf(name));
      clients.set(
        name,
        new Redis({ host: hostname, port: Number(port), username: name, password: PASSWORD }),
      );
    }
  });
  afterAll(async () => {
    for (const client of clients.values()) client.disconnect();
    await server[Symbol.asyncDispose]();
  });

  const call = (name: string, command: string, ...args: string[]): Promise<unknown> => {
    const client = clients.get(name);
    if (client === undefined) throw new Error(`no client of ${name}`);
    return client.call(command, args);
  };

  it("operate-read may run no command that writes, publishes or blocks", async () => {
    const names = commandsOf("operate-read").filter((name) => name !== "fcall");
    const [infos = []] = (await server.onEveryNode("command", "INFO", ...names)) as unknown[][][];
    expect(infos).toHaveLength(names.length);
    for (const info of infos) {
      const [name, , flags] = info as [string, number, string[]];
      for (const flag of ["write", "pubsub", "blocking"]) expect(flags, name).not.toContain(flag);
    }
  });

  it("a Valkey function that writes is refused to operate-read before its first write", async () => {
    const library =
      "#!lua name=probe\nserver.register_function('probe', function(keys) server.call('set', keys[1], '1') return 1 end)";
    await server.onEveryNode("function", "LOAD", library);
    await expect(call("operate-read", "fcall", "probe", "1", "ff:exec:{fp:0}:x:core")).rejects.toThrow(
      /ACL failure in script.*'set' command/,
    );
    expect(await server.onEveryNode("exists", "ff:exec:{fp:0}:x:core")).toEqual([0]);
    expect(await call("operate-write", "fcall", "probe", "1", "ff:exec:{fp:0}:x:core")).toBe(1);
  });

  it.each(OPERATE)("%s is denied everything else", async (name) => {
    for (const [command, ...args] of [
      ["flushall"],
      ["keys", "*"],
      ["config", "SET", "maxmemory", "1"],
      ["acl", "WHOAMI"],
      ["function", "FLUSH"],
      ["function", "DELETE", "flowfabric"],
      ["subscribe", "ff:dag:completions"],
      ["get", "of:another:application"],
      ["fcall", "ff_version", "1", "of:another:application"],
    ] as const) {
      await expect(call(name, command, ...args), command).rejects.toThrow(/NOPERM/);
    }
  });

  it.each(OPERATE)("%s may run only commands that its code names", async (name) => {
    const code = (await codeOf(name)).toLowerCase();
    const unused = commandsOf(name).filter(
      (command) => !OF_THE_CLIENT.includes(command) && !new RegExp(`["'\`]${command}["'\`]`).test(code),
    );
    expect(unused).toEqual([]);
  });

  it.each(OPERATE)("%s is documented with its rules", (name) => {
    const docs = readFileSync(join(ROOT, "docs/valkey-access.md"), "utf8").replaceAll(/\s+/g, " ");
    const [, rules] = new RegExp(`\\b${name} \`\`\` ([^\`]*) \`\`\``).exec(docs) ?? [];
    expect(rules).toBe(accessOf(name).join(" "));
  });
});
