/**
 * A fake of the Lambda service: it speaks the Invoke API (AWS Lambda API Reference, "Invoke") and forwards each event to a
 * built function in a process. It checks no signatures and no permissions.
 */

import { randomUUID } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { FunctionError } from "#local/function-error.ts";
import type { FunctionProcess } from "#local/function-process.ts";

const INVOKE = /^POST \/2015-03-31\/functions\/([^/]+)\/invocations$/;
/** Lambda's limit for the events and responses of synchronous invocations. */
const MAX_PAYLOAD_BYTES = 6 * 1024 * 1024;

/** An error that the service reports in place of an invocation. */
export interface Refusal {
  readonly status: number;
  readonly code: string;
  readonly message: string;
}

export class FakeLambda implements AsyncDisposable {
  readonly #server: Server;
  readonly #functions = new Map<string, Pick<FunctionProcess, "invoke">>();
  /** The ids of the requests that arrived, in order. */
  readonly requestIds: string[] = [];
  /** The events that arrived, in order. */
  readonly events: unknown[] = [];
  /** Decides about each request before its function runs. */
  refuse: () => Refusal | undefined = () => undefined;

  private constructor() {
    this.#server = createServer((request, response) => {
      this.#handle(request, response).catch(() => response.destroy());
    });
  }

  static async start(): Promise<FakeLambda> {
    const fake = new FakeLambda();
    await new Promise<void>((resolve) => fake.#server.listen(0, "127.0.0.1", resolve));
    return fake;
  }

  /** The environment of a program that invokes the functions. */
  get environment(): Record<string, string> {
    const { port } = this.#server.address() as AddressInfo;
    return {
      AWS_ENDPOINT_URL: `http://127.0.0.1:${port}`,
      AWS_REGION: "eu-central-1",
      AWS_ACCESS_KEY_ID: "test",
      AWS_SECRET_ACCESS_KEY: "test",
    };
  }

  deploy(name: string, fn: Pick<FunctionProcess, "invoke">): void {
    this.#functions.set(name, fn);
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await text(request);
    const requestId = randomUUID();
    this.requestIds.push(requestId);
    response.setHeader("x-amzn-RequestId", requestId).setHeader("content-type", "application/json");
    const [, name = ""] = INVOKE.exec(`${request.method} ${request.url}`) ?? [];
    const fn = this.#functions.get(decodeURIComponent(name));
    const refusal = this.refuse() ?? (fn === undefined ? notFound(name) : sizeRefusal(body));
    if (refusal !== undefined || fn === undefined) {
      const { status, code, message } = refusal ?? notFound(name);
      response.writeHead(status, { "x-amzn-ErrorType": code }).end(JSON.stringify({ Message: message }));
      return;
    }
    const event: unknown = JSON.parse(body);
    this.events.push(event);
    const { failed, payload } = await this.#answer(fn, event, requestId);
    if (failed) response.setHeader("x-amz-function-error", "Unhandled");
    response.writeHead(200).end(payload);
  }

  async #answer(
    fn: Pick<FunctionProcess, "invoke">,
    event: unknown,
    requestId: string,
  ): Promise<{ failed: boolean; payload: string }> {
    try {
      const payload = JSON.stringify(await fn.invoke(event, requestId));
      if (Buffer.byteLength(payload) <= MAX_PAYLOAD_BYTES) return { failed: false, payload };
      return failure(
        "Function.ResponseSizeTooLarge",
        "Response payload size exceeded maximum allowed payload size",
      );
    } catch (error) {
      if (!(error instanceof FunctionError)) throw error;
      const [, name = "Error", message = error.message] = /^(\w+): (.*)$/s.exec(error.message) ?? [];
      return error.reason === "timed_out"
        ? failure("Sandbox.Timedout", `RequestId: ${requestId} Error: Task timed out`)
        : failure(name, message);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

function failure(errorType: string, errorMessage: string): { failed: boolean; payload: string } {
  return { failed: true, payload: JSON.stringify({ errorType, errorMessage, trace: [] }) };
}

function notFound(name: string): Refusal {
  return {
    status: 404,
    code: "ResourceNotFoundException",
    message: `Function not found: arn:aws:lambda:eu-central-1:000000000000:function:${name}`,
  };
}

function sizeRefusal(body: string): Refusal | undefined {
  if (Buffer.byteLength(body) <= MAX_PAYLOAD_BYTES) return undefined;
  return {
    status: 413,
    code: "RequestTooLargeException",
    message: "Request must be smaller than 6291456 bytes",
  };
}
