import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { FunctionError } from "#local/function-error.ts";
import type { InvocationMessage, RemoteError } from "#local/function-messages.ts";

const HOST = "127.0.0.1";
const PREFIX = "/2018-06-01/runtime";
const RESULT = new RegExp(`^POST ${PREFIX}/invocation/([^/]+)/(response|error)$`);

interface Pending {
  readonly requestId: string;
  readonly resolve: (answer: unknown) => void;
  readonly reject: (error: FunctionError) => void;
}

/**
 * Lambda's Runtime API for one process that handles one event at a time: the process requests the next event and then
 * posts its result (AWS Lambda Developer Guide, "Using the Lambda runtime API").
 */
export class RuntimeApi {
  readonly #server: Server;
  readonly #functionArn: string;
  readonly #ready = Promise.withResolvers<void>();
  /** The pending request for the next event. */
  #waiting: ServerResponse | undefined;
  #unsent: InvocationMessage | undefined;
  #pending: Pending | undefined;

  private constructor(functionArn: string) {
    this.#functionArn = functionArn;
    this.#server = createServer((request, response) => {
      this.#handle(request, response).catch(() => response.destroy());
    });
    // The handler runs between two requests and may take long.
    this.#server.keepAliveTimeout = 0;
  }

  /** Listens on a free loopback port. */
  static async listen(functionArn: string): Promise<RuntimeApi> {
    const api = new RuntimeApi(functionArn);
    await new Promise<void>((resolve, reject) => {
      api.#server.once("error", reject);
      api.#server.listen(0, HOST, resolve);
    });
    return api;
  }

  /** The value of AWS_LAMBDA_RUNTIME_API. */
  get address(): string {
    return `${HOST}:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Resolves on the request for the first event. Rejects when the process reports an init error. */
  get ready(): Promise<void> {
    return this.#ready.promise;
  }

  /** The function's response. Rejects with a FunctionError when it threw. One call at a time. */
  exchange(invocation: InvocationMessage): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.#pending = { requestId: invocation.requestId, resolve, reject };
      this.#unsent = invocation;
      this.#send();
    });
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await text(request);
    const route = `${request.method} ${request.url}`;
    if (route === `GET ${PREFIX}/invocation/next`) {
      this.#waiting = response;
      this.#ready.resolve();
      this.#send();
      return;
    }
    if (route === `POST ${PREFIX}/init/error`) {
      reply(response, 202, { status: "OK" });
      this.#ready.reject(FunctionError.from("unusable", remoteErrorIn(body)));
      return;
    }
    const [, requestId, kind] = RESULT.exec(route) ?? [];
    const pending = this.#pending;
    if (kind === undefined) reply(response, 404, { errorType: "InvalidRequest", errorMessage: route });
    else if (pending === undefined || requestId !== pending.requestId) {
      reply(response, 400, { errorType: "InvalidRequestID", errorMessage: "Invalid request ID" });
    } else {
      this.#pending = undefined;
      reply(response, 202, { status: "OK" });
      if (kind === "response") pending.resolve(JSON.parse(body));
      else pending.reject(FunctionError.from("threw", remoteErrorIn(body)));
    }
  }

  #send(): void {
    const [response, invocation] = [this.#waiting, this.#unsent];
    if (response === undefined || invocation === undefined) return;
    this.#waiting = undefined;
    this.#unsent = undefined;
    reply(response, 200, invocation.event ?? null, {
      "Lambda-Runtime-Aws-Request-Id": invocation.requestId,
      "Lambda-Runtime-Deadline-Ms": String(invocation.deadlineMs),
      "Lambda-Runtime-Invoked-Function-Arn": this.#functionArn,
      "Lambda-Runtime-Trace-Id": `Root=1-${hexSeconds()}-${invocation.requestId.replaceAll("-", "").slice(0, 24)};Sampled=0`,
    });
  }
}

function reply(
  response: ServerResponse,
  status: number,
  value: unknown,
  headers: Readonly<Record<string, string>> = {},
): void {
  const body = JSON.stringify(value);
  response.writeHead(status, {
    "Content-Type": "application/json",
    "Content-Length": Buffer.byteLength(body),
    ...headers,
  });
  response.end(body);
}

function hexSeconds(): string {
  return Math.floor(Date.now() / 1_000).toString(16);
}

/** Parses an error from the runtime client: its type, its message, and the lines of its stack. */
function remoteErrorIn(body: string): RemoteError {
  const parsed: unknown = JSON.parse(body);
  const { errorType, errorMessage, trace, stackTrace } = isRecord(parsed) ? parsed : {};
  const lines: unknown = trace ?? stackTrace;
  return {
    name: String(errorType ?? "Error"),
    message: String(errorMessage ?? ""),
    stack: Array.isArray(lines) ? lines.join("\n") : "",
  };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
