/** A server in the place of the S3 bucket that receives the responses of CloudFormation custom resources. */

import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** One received PUT. */
export interface ReceivedResponse {
  readonly method: string;
  readonly path: string;
  readonly contentType: string;
  readonly bytes: number;
  /** The parsed JSON body. */
  readonly body: Readonly<Record<string, unknown>>;
}

export class ResponseUrl implements AsyncDisposable {
  readonly #server: Server;
  /** All requests, accepted or not. */
  readonly received: ReceivedResponse[] = [];
  /** The results of the next requests: an HTTP status, or `cut` to close the connection. Afterwards 200. */
  next: (number | "cut")[] = [];

  private constructor() {
    this.#server = createServer((request, response) => void this.#take(request, response));
  }

  static async start(): Promise<ResponseUrl> {
    const responseUrl = new ResponseUrl();
    responseUrl.#server.listen(0, "127.0.0.1");
    await once(responseUrl.#server, "listening");
    return responseUrl;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/answer?X-Amz-Signature=signed`;
  }

  /** The only request since the last call. Throws if there are none or several. */
  only(): ReceivedResponse {
    const [answer, ...others] = this.received.splice(0);
    if (answer === undefined || others.length > 0)
      throw new Error(`expected one response, received ${answer === undefined ? 0 : others.length + 1}`);
    return answer;
  }

  async #take(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(Buffer.from(chunk));
    const body = Buffer.concat(chunks);
    this.received.push({
      method: request.method ?? "",
      path: request.url ?? "",
      contentType: request.headers["content-type"] ?? "",
      bytes: body.length,
      body: JSON.parse(body.toString("utf8")),
    });
    const end = this.next.shift() ?? 200;
    if (end === "cut") request.socket.destroy();
    else response.writeHead(end).end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
