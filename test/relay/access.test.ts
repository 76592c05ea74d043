import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { awsCredentials } from "#relay/aws-credentials.ts";
import { KINDS, SecuredValkey } from "#test/auth/secured.ts";
import { newEvent } from "#test/relay/events.ts";
import { RelayProcess } from "#test/relay/relay-process.ts";
import { QueueProbe } from "#test/support/dispatch.ts";

const RULES: string[] = JSON.parse(
  readFileSync(new URL("../../relay/access.json", import.meta.url), "utf8"),
).map(String);
const DOCUMENT = new URL("../../docs/relay.md", import.meta.url);

describe.each(KINDS)("a relay with TLS and the documented ACL user (%s)", (kind) => {
  it("runs exactly the commands that the documented rules allow", async () => {
    await using servers = new AsyncDisposableStack();
    const probe = servers.use(await QueueProbe.start());
    const valkey = servers.use(await SecuredValkey.start(kind));
    await valkey.setUser("relay", "subscriber-password", RULES);
    await valkey.onEveryNode("config", "RESETSTAT");
    const { VALKEY_URL = "", ...environment } = valkey.as("relay", "subscriber-password");
    const address = { url: new URL(VALKEY_URL), cluster: kind === "cluster" };
    const relay = servers.use(
      await RelayProcess.subscribed(address, probe, valkey.nodes.length, environment),
    );
    const { id, text } = newEvent();
    await valkey.onEveryNode("publish", "ff:dag:completions", text);
    await vi.waitFor(async () => {
      expect((await probe.drainEvents()).map(({ executionId }) => executionId)).toContain(id);
    });
    await vi.waitFor(async () => expect(await valkey.commandsRun()).toContain("ping"), { timeout: 10_000 });
    expect((await relay.end()).code).toBe(0);
    expect(await valkey.refusals()).toEqual([]);
    const granted = RULES.filter((rule) => rule.startsWith("+")).map((rule) => rule.slice(1));
    const run = (await valkey.commandsRun()).filter((name) => !["publish", "info"].includes(name));
    expect(run).toEqual(granted.filter((name) => kind === "cluster" || name !== "cluster|slots").sort());
    expect(readFileSync(DOCUMENT, "utf8")).toContain(RULES.join(" "));
  });
});

describe("the relay's AWS credentials", () => {
  it("come from the container credentials endpoint when the environment has none", async () => {
    /** Stands in for the endpoint that provides the credentials of an ECS task role. */
    const issuer = createServer((_request, response) => {
      response.end(
        JSON.stringify({
          AccessKeyId: "of-the-task",
          SecretAccessKey: "secret",
          Token: "session",
          Expiration: new Date(Date.now() + 3_600_000).toISOString(),
        }),
      );
    });
    await new Promise<void>((resolve) => {
      issuer.listen(0, "127.0.0.1", resolve);
    });
    onTestFinished(() => {
      issuer.close();
      vi.unstubAllEnvs();
    });
    for (const name of ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"]) {
      vi.stubEnv(name, undefined);
    }
    vi.stubEnv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent");
    vi.stubEnv("AWS_CONFIG_FILE", "/nonexistent");
    const { port } = issuer.address() as AddressInfo;
    vi.stubEnv("AWS_CONTAINER_CREDENTIALS_FULL_URI", `http://127.0.0.1:${port}/`);
    expect(await awsCredentials()()).toEqual({
      AWS_ACCESS_KEY_ID: "of-the-task",
      AWS_SECRET_ACCESS_KEY: "secret",
      AWS_SESSION_TOKEN: "session",
    });
  });
});
