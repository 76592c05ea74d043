/** A fake of Secrets Manager with one secret, whose value a test sets. */

import { once } from "node:events";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";

export class FakeSecretsManager implements AsyncDisposable {
  readonly secretId: string;
  /** The secret. Undefined: requests are denied. */
  value: string | undefined;
  /** The number of requests so far. */
  requests = 0;
  readonly #server: Server;

  private constructor(secretId: string) {
    this.secretId = secretId;
    this.#server = createServer(async (request, response) => {
      this.requests += 1;
      const asked: unknown = JSON.parse(await text(request));
      const isKnown =
        request.headers["x-amz-target"] === "secretsmanager.GetSecretValue" &&
        Object(asked).SecretId === this.secretId;
      response.setHeader("content-type", "application/x-amz-json-1.1");
      if (isKnown && this.value !== undefined) {
        response.end(JSON.stringify({ Name: this.secretId, SecretString: this.value }));
        return;
      }
      const __type = isKnown ? "AccessDeniedException" : "ResourceNotFoundException";
      response.writeHead(400).end(JSON.stringify({ __type, message: "not for you" }));
    });
  }

  static async start(secretId: string): Promise<FakeSecretsManager> {
    const fake = new FakeSecretsManager(secretId);
    fake.#server.listen(0, "127.0.0.1");
    await once(fake.#server, "listening");
    return fake;
  }

  /** The environment variables of a function that uses this fake. */
  get environment(): Record<string, string> {
    return {
      VALKEY_AUTH: "secret",
      VALKEY_SECRET: this.secretId,
      AWS_ENDPOINT_URL_SECRETS_MANAGER: `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }
}
