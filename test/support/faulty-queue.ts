/** An HTTP proxy before the queue emulator that makes requests go wrong, as SQS itself may. */

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
      readonly senderError?: boolean;
    }
  /** Answered with an HTTP error; the SDK retries a 5xx and what it knows as throttling on its own. */
  | { readonly kind: "http_error"; readonly status: number; readonly type?: string }
  /** Passed on, and the connection is cut before the answer. */
  | { readonly kind: "reply_lost" };

interface Entry {
  readonly Id: string;
  readonly MessageAttributes?: Readonly<Record<string, { readonly StringValue?: string } | undefined>>;
}

/** What may stop a SendMessageBatch: before it is passed on, or when the queue has answered it. */
export interface SendGate {
  /** Whether it is shut for this queue at this moment. */
  guards(queueUrl: string, moment: "before" | "after"): boolean;
  /** Does what it is there for; `drop` cuts the connection. */
  pass(): Promise<"pass" | "drop">;
}

const OPEN: SendGate = { guards: () => false, pass: () => Promise.resolve("pass") };

/** An answer that the emulator is not asked for. */
export interface MadeUpAnswer {
  readonly status: number;
  readonly body: unknown;
}

export class FaultyQueue implements AsyncDisposable {
  readonly #server: Server;
  readonly #target: string;
  readonly #clients: SQSClient[] = [];
  /** Decides about the n-th SendMessageBatch, counted from 1. */
  decide: (call: number) => SendFault = () => ({ kind: "none" });
  /** How many SendMessageBatch have come. */
  calls = 0;
  gate: SendGate = OPEN;
  /** Hears of every entry that the queue has accepted. */
  onAccepted: (queueUrl: string, entry: Entry) => void = () => undefined;
  /** Hears of every request, and may answer it in the emulator's place. */
  intercept: (operation: string, body: string) => Promise<MadeUpAnswer | undefined> = async () => undefined;

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
    const operation = String(request.headers["x-amz-target"]).replace("AmazonSQS.", "");
    const madeUp = await this.intercept(operation, body);
    if (madeUp !== undefined) {
      this.#answer(response, madeUp.status, JSON.stringify(madeUp.body));
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
      this.#tell(batch.QueueUrl, batch.Entries, answer.body);
      if (fault.kind === "reply_lost" || !(await this.#passes(batch.QueueUrl, "after"))) response.destroy();
      else this.#answer(response, answer.status, answer.body);
      return;
    }
    const refused = batch.Entries.filter(({ Id }, index) => fault.ids(Id, index));
    const passed = batch.Entries.filter((entry) => !refused.includes(entry));
    let answer: Record<string, unknown> = {};
    if (passed.length > 0) {
      const forwarded = await this.#forward(request, JSON.stringify({ ...batch, Entries: passed }));
      this.#tell(batch.QueueUrl, passed, forwarded.body);
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

  async #passes(queueUrl: string, moment: "before" | "after"): Promise<boolean> {
    const { gate } = this;
    return !gate.guards(queueUrl, moment) || (await gate.pass()) === "pass";
  }

  #tell(queueUrl: string, entries: readonly Entry[], answer: string): void {
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

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) client.destroy();
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
