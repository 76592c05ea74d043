import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { FunctionProcess } from "#local/function-process.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { builtFunction, dispatchOne } from "#test/auth/built.ts";
import { FakeSecretsManager } from "#test/auth/fake-secrets-manager.ts";
import { accessOf, KINDS, SecuredValkey } from "#test/auth/secured.ts";
import { QueueProbe } from "#test/support/dispatch.ts";
import { connectTo } from "#test/support/valkey.ts";

const USER = "sluice-dispatch";
const SECRET = "sluice/valkey";

describe.each(KINDS)("a password in Secrets Manager (%s)", (kind) => {
  let queue: QueueProbe;
  let server: SecuredValkey;
  let admin: Valkey;

  beforeAll(async () => {
    queue = await QueueProbe.start();
    server = await SecuredValkey.start(kind);
    admin = connectTo(server.plain);
    await ensureLibrary(admin);
  });
  beforeEach(() => server.setUser(USER, "f1rst Password", accessOf("dispatch")));
  afterAll(async () => {
    admin.close();
    await server[Symbol.asyncDispose]();
    await queue[Symbol.asyncDispose]();
  });

  const output: string[] = [];

  function start(secrets: FakeSecretsManager, environment: Record<string, string> = {}): FunctionProcess {
    output.length = 0;
    const all = { ...server.environment, ...secrets.environment, ...environment };
    return builtFunction("dispatch", queue, all, (text) => output.push(text));
  }

  it.each([
    ["with a user", JSON.stringify({ username: USER, password: "f1rst Password", engine: "valkey" }), {}],
    ["with the user in VALKEY_USER", JSON.stringify({ password: "f1rst Password" }), { VALKEY_USER: USER }],
    ["with a bare password", "f1rst Password", { VALKEY_USER: USER }],
  ])("authenticates the function with a secret %s, and reads it once", async (_, value, environment) => {
    await using secrets = await FakeSecretsManager.start(SECRET);
    secrets.value = value;
    await using fn = start(secrets, environment);
    await dispatchOne(fn, admin);
    expect(secrets.requests).toBe(1);
  });

  it("is read again after a rotation, without a retry of the message", async () => {
    await using secrets = await FakeSecretsManager.start(SECRET);
    secrets.value = JSON.stringify({ username: USER, password: "f1rst Password" });
    await using fn = start(secrets);
    await dispatchOne(fn, admin);
    await server.setUser(USER, "sec0nd Password", accessOf("dispatch"));
    secrets.value = JSON.stringify({ username: USER, password: "sec0nd Password" });
    // A rotation keeps existing connections open, so restart the server to close them.
    await dispatchOne(fn, admin);
    expect(secrets.requests).toBe(1);
    await server.onEveryNode("client", "KILL", "USER", USER);
    await dispatchOne(fn, admin);
    expect(secrets.requests).toBe(2);
  });

  it("reports the rejected user without the password if the secret has a wrong one", async () => {
    await using secrets = await FakeSecretsManager.start(SECRET);
    secrets.value = JSON.stringify({ username: USER, password: "wr0ng Password" });
    await using fn = start(secrets);
    const failure = await fn.invoke({ Records: [] }).catch(String);
    expect(failure).toMatch(/rejected the user "sluice-dispatch": WRONGPASS/);
    expect(`${failure} ${output.join("")}`).not.toContain("wr0ng");
    secrets.value = JSON.stringify({ username: USER, password: "f1rst Password" });
    await dispatchOne(fn, admin);
  });

  it.each([
    ["cannot be read", undefined, /cannot read the secret sluice\/valkey \(VALKEY_SECRET\): .*not for you/],
    [
      "has no password",
      JSON.stringify({ user: "h1dden" }),
      /expected a password or a JSON object with a password/,
    ],
  ])("fails with the reason if the secret %s", async (_, value, reason) => {
    await using secrets = await FakeSecretsManager.start(SECRET);
    secrets.value = value;
    await using fn = start(secrets);
    const failure = await fn.invoke({ Records: [] }).catch(String);
    expect(failure).toMatch(reason);
    expect(`${failure} ${output.join("")}`).not.toContain("h1dden");
  });
});
