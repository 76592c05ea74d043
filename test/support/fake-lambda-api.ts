/** A FAKE of Lambda's API, as an HTTP server: it answers the requests that `doctor` makes from objects that a test sets. */

import { once } from "node:events";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";

/** A function, as Lambda's answers describe it. */
export interface FakeFunction {
  configuration: Record<string, unknown>;
  recursiveLoop: string;
  reserved?: number;
}

/** An event source mapping, as Lambda's answers describe it. */
export interface FakeMapping {
  UUID: string;
  EventSourceArn: string;
  FunctionArn: string;
  [property: string]: unknown;
}

export class FakeLambdaApi implements AsyncDisposable {
  /** By name. */
  readonly functions = new Map<string, FakeFunction>();
  mappings: FakeMapping[] = [];
  unreservedConcurrency = 1_000;
  /** IAM actions that are denied; `*` for invalid credentials. */
  readonly denied = new Set<string>();
  readonly #server: Server;

  private constructor() {
    this.#server = createServer(({ url = "/" }, response) => {
      const { status, body, errorType } = this.#answer(url);
      if (errorType !== undefined) response.setHeader("x-amzn-errortype", errorType);
      response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
    });
  }

  static async start(): Promise<FakeLambdaApi> {
    const fake = new FakeLambdaApi();
    fake.#server.listen(0, "127.0.0.1");
    await once(fake.#server, "listening");
    return fake;
  }

  get endpoint(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Adds a function that takes messages of a queue, set up as a deployment does. */
  addWorker(name: string, queueArn: string, timeout: number, environment: Record<string, string>): void {
    this.addFunction(name, timeout, environment);
    this.mappings.push({
      UUID: `uuid-of-${name}`,
      EventSourceArn: queueArn,
      FunctionArn: arnOf(name),
      State: "Enabled",
      LastProcessingResult: "OK",
      FunctionResponseTypes: ["ReportBatchItemFailures"],
      ScalingConfig: { MaximumConcurrency: 20 },
      MaximumBatchingWindowInSeconds: 0,
    });
  }

  addFunction(name: string, timeout: number, environment: Record<string, string>): void {
    this.functions.set(name, {
      configuration: {
        FunctionName: name,
        FunctionArn: arnOf(name),
        Timeout: timeout,
        State: "Active",
        LastUpdateStatus: "Successful",
        Environment: { Variables: environment },
      },
      recursiveLoop: "Allow",
    });
  }

  #answer(path: string): Answer {
    const url = new URL(path, this.endpoint);
    const [, , kind = "", name = "", part = ""] = url.pathname.split("/");
    const one = this.functions.get(decodeURIComponent(name));
    const action = ACTIONS[kind === "functions" ? part : kind] ?? "unknown";
    if (this.denied.has("*")) {
      return failure(403, "UnrecognizedClientException", "The security token is invalid.");
    }
    if (this.denied.has(action)) {
      return failure(403, "AccessDeniedException", `not authorized to perform: ${action}`);
    }
    if (kind === "event-source-mappings") {
      const arn = url.searchParams.get("EventSourceArn");
      return success({
        EventSourceMappings: this.mappings.filter(({ EventSourceArn }) => EventSourceArn === arn),
      });
    }
    if (kind === "account-settings") {
      return success({ AccountLimit: { UnreservedConcurrentExecutions: this.unreservedConcurrency } });
    }
    if (one === undefined) return failure(404, "ResourceNotFoundException", `Function not found: ${name}`);
    if (part === "configuration") return success(one.configuration);
    if (part === "recursion-config") return success({ RecursiveLoop: one.recursiveLoop });
    return success(one.reserved === undefined ? {} : { ReservedConcurrentExecutions: one.reserved });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }
}

/** The IAM action of a request, by a part of its path. */
const ACTIONS: Readonly<Record<string, string>> = {
  "event-source-mappings": "lambda:ListEventSourceMappings",
  "account-settings": "lambda:GetAccountSettings",
  configuration: "lambda:GetFunctionConfiguration",
  "recursion-config": "lambda:GetFunctionRecursionConfig",
  concurrency: "lambda:GetFunctionConcurrency",
};

function arnOf(name: string): string {
  return `arn:aws:lambda:us-east-1:000000000000:function:${name}`;
}

interface Answer {
  readonly status: number;
  readonly body: unknown;
  readonly errorType?: string;
}

function success(body: unknown): Answer {
  return { status: 200, body };
}

function failure(status: number, errorType: string, message: string): Answer {
  return { status, errorType, body: { Message: message, message } };
}
