/** A FAKE of ElastiCache's API, as an HTTP server that answers signed requests with the XML that a test gives. */

import { once } from "node:events";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";

export class FakeElastiCacheApi implements AsyncDisposable {
  readonly #server: Server;

  private constructor(
    answer: (query: URLSearchParams) => { readonly status: number; readonly body: string },
  ) {
    this.#server = createServer(({ url = "/", headers }, response) => {
      const isSigned = /^AWS4-HMAC-SHA256 .*\/elasticache\/aws4_request/.test(headers.authorization ?? "");
      const { status, body } = isSigned
        ? answer(new URL(url, this.endpoint).searchParams)
        : { status: 403, body: "<Code>MissingAuthenticationToken</Code>" };
      response.writeHead(status, { "content-type": "text/xml" }).end(`<Response>${body}</Response>`);
    });
  }

  static async start(
    answer: (query: URLSearchParams) => { readonly status: number; readonly body: string },
  ): Promise<FakeElastiCacheApi> {
    const fake = new FakeElastiCacheApi(answer);
    fake.#server.listen(0, "127.0.0.1");
    await once(fake.#server, "listening");
    return fake;
  }

  get endpoint(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }
}
