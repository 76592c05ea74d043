import { once } from "node:events";
import { createServer } from "node:http";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { defaultProvider } from "#scripts/build/replacements/lambda-credentials.ts";

describe("a function's credentials", () => {
  beforeEach(() => {
    for (const name of Object.keys(process.env)) if (name.startsWith("AWS_")) vi.stubEnv(name, undefined);
  });
  afterEach(() => vi.unstubAllEnvs());

  it("come from the environment", async () => {
    vi.stubEnv("AWS_ACCESS_KEY_ID", "id");
    vi.stubEnv("AWS_SECRET_ACCESS_KEY", "secret");
    vi.stubEnv("AWS_SESSION_TOKEN", "session");
    expect(await defaultProvider()()).toMatchObject({
      accessKeyId: "id",
      secretAccessKey: "secret",
      sessionToken: "session",
    });
  });

  it("come from Lambda's endpoint if AWS_CONTAINER_CREDENTIALS_FULL_URI is set", async () => {
    const asked: unknown[] = [];
    // Stands in for the endpoint of a function that Lambda has restored from a snapshot.
    const endpoint = createServer((request, response) => {
      asked.push(request.headers.authorization);
      const Expiration = new Date(Date.now() + 3_600_000).toISOString();
      response.end(
        JSON.stringify({ AccessKeyId: "id", SecretAccessKey: "secret", Token: "session", Expiration }),
      );
    });
    endpoint.listen(0, "127.0.0.1");
    await once(endpoint, "listening");
    try {
      const address = endpoint.address();
      const port = typeof address === "object" ? address?.port : undefined;
      vi.stubEnv("AWS_CONTAINER_CREDENTIALS_FULL_URI", `http://127.0.0.1:${port}/credentials`);
      vi.stubEnv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "token");
      expect(await defaultProvider()()).toMatchObject({
        accessKeyId: "id",
        secretAccessKey: "secret",
        sessionToken: "session",
        expiration: expect.any(Date),
      });
      expect(asked).toEqual(["token"]);
    } finally {
      endpoint.close();
      endpoint.closeAllConnections();
    }
  });

  it("missing: rejects with a reason", async () => {
    await expect(defaultProvider()()).rejects.toThrow("Unable to find environment variable credentials");
  });
});
