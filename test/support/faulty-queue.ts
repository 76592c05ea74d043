/** An HTTP proxy before the queue emulator that makes SendMessageBatch go wrong, as SQS itself may. */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { SQSClient } from "@aws-sdk/client-sqs";

/** What becomes of one SendMessageBatch. */
export type SendFault =
  /** Passed on. */
  | { readonly kind: "none" }
  /** Those entries are answered as `Failed` and not passed on. */
  | {
      readonly kind: "failed_entries";
      readonly ids: (id: string, index: number) => boolean;
      readonly senderFault?: boolean;
    }
  /** Answered with an HTTP error; the SDK retries a 5xx on its own. */
  | { readonly kind: "http_error"; readonly status: number }
  /** Passed on, and the connection is cut before the answer. */
  | { readonly kind: "reply_lost" };

interface Entry {
  readonly Id: string;
}

export class FaultyQueue implements AsyncDisposable {
  readonly #server: Server;
  readonly #target: string;
  readonly #clients: SQSClient[] = [];
  /** Decides about the n-th SendMessageBatch, counted from 1. */
  decide: (call: number) => SendFault = () => ({ kind: "none" });
  /** How many SendMessageBatch have come. */
  calls = 0;

  private constructor(target: string) {
    this.#target = target;
    this.#server = createServer((request, response) => {
      this.#handle(request, response).catch(() => response.destroy());
    });
  }

  static async before(target: string): Promise<FaultyQueue> {
    const queue = new FaultyQueue(target);
    await new Promise<void>((resolve) => queue.#server.listen(0, "127.0.0.1", resolve));
    return queue;
  }

  get endpoint(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** A client that goes through the proxy; it makes each request once. */
  client(): SQSClient {
    const client = new SQSClient({
      endpoint: this.endpoint,
      region: "us-east-1",
      credentials: { accessKeyId: "local", secretAccessKey: "local" },
      maxAttempts: 1,
    });
    this.#clients.push(client);
    return client;
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await text(request);
    const isSend = String(request.headers["x-amz-target"]).endsWith(".SendMessageBatch");
    if (isSend) this.calls += 1;
    const fault: SendFault = isSend ? this.decide(this.calls) : { kind: "none" };
    if (fault.kind === "http_error") {
      response.writeHead(fault.status, { "content-type": "application/x-amz-json-1.0" });
      response.end(JSON.stringify({ __type: "InternalFailure", message: "made to fail" }));
      return;
    }
    if (fault.kind !== "failed_entries") {
      const answer = await this.#forward(request, body);
      if (fault.kind === "reply_lost") response.destroy();
      else this.#answer(response, answer.status, answer.body);
      return;
    }
    const batch = JSON.parse(body) as { Entries: Entry[] };
    const refused = batch.Entries.filter(({ Id }, index) => fault.ids(Id, index));
    const passed = batch.Entries.filter((entry) => !refused.includes(entry));
    let answer: Record<string, unknown> = {};
    if (passed.length > 0) {
      const forwarded = await this.#forward(request, JSON.stringify({ ...batch, Entries: passed }));
      answer = JSON.parse(forwarded.body) as Record<string, unknown>;
    }
    const Failed = refused.map(({ Id }) => ({
      Id,
      Code: "InternalError",
      Message: "made to fail",
      SenderFault: fault.senderFault ?? false,
    }));
    this.#answer(response, 200, JSON.stringify({ ...answer, Failed }));
  }

  #answer(response: ServerResponse, status: number, body: string): void {
    response.writeHead(status, { "content-type": "application/x-amz-json-1.0" });
    response.end(body);
  }

  async #forward(request: IncomingMessage, body: string): Promise<{ status: number; body: string }> {
    const headers: Record<string, string> = {};
    for (const name of ["x-amz-target", "content-type", "authorization", "x-amz-date"]) {
      headers[name] = String(request.headers[name] ?? "");
    }
    const answer = await fetch(this.#target, { method: "POST", headers, body });
    return { status: answer.status, body: await answer.text() };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) client.destroy();
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
