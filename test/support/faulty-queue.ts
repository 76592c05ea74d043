/** An HTTP proxy for the queue emulator that makes requests fail as SQS may. */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { SQSClient } from "@aws-sdk/client-sqs";

/** What happens to one SendMessageBatch. */
export type SendFault =
  /** Forwarded. */
  | { readonly kind: "none" }
  /** The selected entries are answered as `Failed` and not forwarded. */
  | {
      readonly kind: "failed_entries";
      readonly ids: (id: string, index: number) => boolean;
      readonly senderError?: boolean;
    }
  /** Answered with an HTTP error. The SDK retries 5xx and throttling errors. */
  | { readonly kind: "http_error"; readonly status: number; readonly type?: string }
  /** Forwarded, and the connection is closed before the answer. */
  | { readonly kind: "reply_lost" };

interface Entry {
  readonly Id: string;
  readonly MessageAttributes?: Readonly<Record<string, { readonly StringValue?: string } | undefined>>;
}

/** Stops a SendMessageBatch: before it is forwarded, or after the queue answered. */
export interface SendGate {
  /** Whether the request stops at this point. */
  stopsAt(queueUrl: string, timing: "before" | "after"): boolean;
  /** Called at such a point. `pass` lets the request continue; `drop` closes the connection. */
  pass(): Promise<"pass" | "drop">;
}

const OPEN: SendGate = { stopsAt: () => false, pass: () => Promise.resolve("pass") };

/** An answer of the proxy itself. */
export interface ProxyAnswer {
  readonly status: number;
  /** Sent as JSON. */
  readonly body?: unknown;
  /** Sent as it is, instead of a body. */
  readonly html?: string;
}

export class FaultyQueue implements AsyncDisposable {
  readonly #server: Server;
  readonly #target: string;
  readonly #clients: SQSClient[] = [];
  /** Selects the fault of the n-th SendMessageBatch, counted from 1. */
  decide: (call: number) => SendFault = () => ({ kind: "none" });
  /** The number of SendMessageBatch requests received. */
  calls = 0;
  gate: SendGate = OPEN;
  /** Called with every entry that the queue accepted. */
  onAccepted: (queueUrl: string, entry: Entry) => void = () => undefined;
  /** Called with every request. If it returns an answer, the request is not forwarded. */
  intercept: (operation: string, body: string) => Promise<ProxyAnswer | undefined> = async () => undefined;

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

  /** A client that connects through the proxy and does not retry. */
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
    const operation = String(request.headers["x-amz-target"]).replace("AmazonSQS.", "");
    const ownAnswer = await this.intercept(operation, body);
    if (ownAnswer !== undefined) {
      this.#answer(response, ownAnswer.status, ownAnswer.html ?? JSON.stringify(ownAnswer.body));
      return;
    }
    const isSend = operation === "SendMessageBatch";
    if (isSend) this.calls += 1;
    const fault: SendFault = isSend ? this.decide(this.calls) : { kind: "none" };
    if (fault.kind === "http_error") {
      response.writeHead(fault.status, { "content-type": "application/x-amz-json-1.0" });
      response.end(JSON.stringify({ __type: fault.type ?? "InternalFailure", message: "made to fail" }));
      return;
    }
    if (!isSend) {
      const answer = await this.#forward(request, body);
      this.#answer(response, answer.status, answer.body);
      return;
    }
    const batch = JSON.parse(body) as { QueueUrl: string; Entries: Entry[] };
    if (!(await this.#passes(batch.QueueUrl, "before"))) {
      response.destroy();
      return;
    }
    if (fault.kind !== "failed_entries") {
      const answer = await this.#forward(request, body);
      this.#reportAccepted(batch.QueueUrl, batch.Entries, answer.body);
      if (fault.kind === "reply_lost" || !(await this.#passes(batch.QueueUrl, "after"))) response.destroy();
      else this.#answer(response, answer.status, answer.body);
      return;
    }
    const refused = batch.Entries.filter(({ Id }, index) => fault.ids(Id, index));
    const passed = batch.Entries.filter((entry) => !refused.includes(entry));
    let answer: Record<string, unknown> = {};
    if (passed.length > 0) {
      const forwarded = await this.#forward(request, JSON.stringify({ ...batch, Entries: passed }));
      this.#reportAccepted(batch.QueueUrl, passed, forwarded.body);
      answer = JSON.parse(forwarded.body) as Record<string, unknown>;
    }
    const Failed = refused.map(({ Id }) => ({
      Id,
      Code: "InternalError",
      Message: "made to fail",
      SenderFault: fault.senderError ?? false,
    }));
    this.#answer(response, 200, JSON.stringify({ ...answer, Failed }));
  }

  async #passes(queueUrl: string, timing: "before" | "after"): Promise<boolean> {
    const { gate } = this;
    return !gate.stopsAt(queueUrl, timing) || (await gate.pass()) === "pass";
  }

  #reportAccepted(queueUrl: string, entries: readonly Entry[], answer: string): void {
    const { Successful: successful = [] } = JSON.parse(answer) as { Successful?: { Id: string }[] };
    const accepted = new Set(successful.map(({ Id: id }) => id));
    for (const entry of entries) if (accepted.has(entry.Id)) this.onAccepted(queueUrl, entry);
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

  /** Stops listening: clients are refused from now on. */
  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) client.destroy();
    await this.close();
  }
}
