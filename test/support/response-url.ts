/** The bucket to which a custom resource answers CloudFormation, by a pre-signed URL. */

import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** One PUT, as it arrived. */
export interface ReceivedAnswer {
  readonly method: string;
  readonly path: string;
  readonly contentType: string;
  readonly bytes: number;
  /** The body, parsed. */
  readonly body: Readonly<Record<string, unknown>>;
}

export class ResponseUrl implements AsyncDisposable {
  readonly #server: Server;
  /** What was answered, whether it was taken or not. */
  readonly received: ReceivedAnswer[] = [];
  /** How the next requests end: an HTTP status, or `cut` for a lost connection. After these, 200. */
  next: (number | "cut")[] = [];

  private constructor() {
    this.#server = createServer((request, response) => void this.#take(request, response));
  }

  static async start(): Promise<ResponseUrl> {
    const answers = new ResponseUrl();
    answers.#server.listen(0, "127.0.0.1");
    await once(answers.#server, "listening");
    return answers;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/answer?X-Amz-Signature=signed`;
  }

  /** The one answer that was taken or refused since the last call. Throws where there are none or several. */
  only(): ReceivedAnswer {
    const [answer, ...others] = this.received.splice(0);
    if (answer === undefined || others.length > 0) throw new Error(`${others.length + 1} answers, or none`);
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
