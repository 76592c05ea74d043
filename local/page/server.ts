/** The server of the page: its files, the operations, and a stream of what changes. It listens on this machine only. */

import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { z } from "zod";
import type { Activity } from "#local/activity.ts";
import { HttpError, readJson, sendError, sendJson } from "#local/page/answers.ts";
import { type Asset, readAssets, SECURITY_HEADERS } from "#local/page/assets.ts";
import { EventStreams } from "#local/page/event-stream.ts";
import { type Access, contentRefusal, originRefusal, type Refusal, tokenRefusal } from "#local/page/guard.ts";
import { topicsSchema } from "#local/page/topics.ts";
import type { Operation } from "#operate/operation.ts";
import { READ_OPERATIONS } from "#operate/read-operations.ts";
import { runOperation } from "#operate/run-operation.ts";
import type { OperateServices } from "#operate/services.ts";
import { WRITE_OPERATIONS } from "#operate/write-operations.ts";
import { ConfigurationError } from "#shared/errors.ts";

const HOST = "127.0.0.1";
const TOKEN_BYTES = 24;
const MAX_CONNECTIONS = 64;
const HEADERS_TIMEOUT_MS = 5_000;
const REQUEST_TIMEOUT_MS = 30_000;
const KEEP_ALIVE_MS = 10_000;
/** Requests in flight get this time when the server stops. */
const CLOSE_MS = 2_000;
const OPERATION_MS = 60_000;
const OPERATIONS = "/api/operations/";

export interface PageServerOptions {
  /** 0: any free port. */
  readonly port: number;
  /** The folder with the built page. */
  readonly folder: string;
  readonly services: OperateServices;
  /** Notified when something may have changed. */
  readonly activity: Activity;
  /** Who uses the page, for the audit trail. */
  readonly actor: string;
}

export interface PageServer extends AsyncDisposable {
  /** With the token in its fragment, which browsers do not send to servers. */
  readonly url: string;
}

/**
 * Starts the server.
 *
 * @throws ConfigurationError if the port is in use, or if the page has not been built.
 */
export async function startPageServer(options: PageServerOptions): Promise<PageServer> {
  const assets = await readAssets(options.folder);
  const token = randomBytes(TOKEN_BYTES).toString("base64url");
  const routes = new Routes(options, assets);
  const server = createServer(
    {
      headersTimeout: HEADERS_TIMEOUT_MS,
      requestTimeout: REQUEST_TIMEOUT_MS,
      keepAliveTimeout: KEEP_ALIVE_MS,
    },
    (request, response) => {
      const access = { port: portOf(server), token };
      routes.answer(request, response, access).catch((error: unknown) => sendError(response, error));
    },
  );
  server.maxConnections = MAX_CONNECTIONS;
  await listen(server, options.port);
  return {
    url: `http://${HOST}:${portOf(server)}/#token=${token}`,
    async [Symbol.asyncDispose]() {
      routes.close();
      const closed = once(server, "close");
      server.close();
      server.closeIdleConnections();
      const timer = setTimeout(() => server.closeAllConnections(), CLOSE_MS);
      await closed;
      clearTimeout(timer);
    },
  };
}

async function listen(server: Server, port: number): Promise<void> {
  try {
    server.listen(port, HOST);
    await once(server, "listening");
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "EADDRINUSE")) throw error;
    throw new ConfigurationError([
      `port ${port} is in use: choose another one with --port, or --port 0 for any free one`,
    ]);
  }
}

function portOf(server: Server): number {
  const address = server.address();
  return typeof address === "object" && address !== null ? address.port : 0;
}

const watchBody = z.strictObject({ stream: z.string(), topics: topicsSchema });

class Routes {
  readonly #options: PageServerOptions;
  readonly #assets: ReadonlyMap<string, Asset>;
  readonly #streams: EventStreams;

  constructor(options: PageServerOptions, assets: ReadonlyMap<string, Asset>) {
    this.#options = options;
    this.#assets = assets;
    this.#streams = new EventStreams((name, input) => {
      const operation = readOperationOf(name);
      if (operation === undefined) throw new HttpError(404, `there is no operation ${name}`);
      return this.#run(operation, input);
    }, options.activity);
  }

  async answer(request: IncomingMessage, response: ServerResponse, access: Access): Promise<void> {
    const { headers } = request;
    accept(originRefusal(headers, access));
    const pathname = URL.parse(request.url ?? "/", `http://${HOST}`)?.pathname;
    if (pathname === undefined) throw new HttpError(400, "the path is malformed");
    if (!pathname.startsWith("/api/")) {
      requireMethod(request, "GET", "HEAD");
      this.#sendAsset(request, response, pathname);
      return;
    }
    if (pathname === "/api/events") {
      requireMethod(request, "GET");
      this.#streams.open(response);
      return;
    }
    requireMethod(request, "POST");
    accept(contentRefusal(headers));
    if (pathname === "/api/watch") {
      const { stream, topics } = parse(watchBody, await readJson(request));
      this.#streams.watch(stream, topics);
      sendJson(response, 200, {});
      return;
    }
    if (!pathname.startsWith(OPERATIONS)) throw new HttpError(404, "not found");
    const name = pathname.slice(OPERATIONS.length);
    const write = writeOperationOf(name);
    if (write !== undefined) accept(tokenRefusal(headers, access));
    const operation = write ?? readOperationOf(name);
    if (operation === undefined) throw new HttpError(404, `there is no operation ${name}`);
    try {
      sendJson(response, 200, await this.#run(operation, await readJson(request)));
    } finally {
      // Also after an error: a part may have been done.
      if (write !== undefined) this.#options.activity.notify();
    }
  }

  close(): void {
    this.#streams.close();
  }

  #run(operation: AnyOperation, input: unknown): Promise<unknown> {
    const { services, actor } = this.#options;
    return runOperation(operation, services, input, { actor, deadlineMs: Date.now() + OPERATION_MS });
  }

  #sendAsset({ method }: IncomingMessage, response: ServerResponse, path: string): void {
    const asset = this.#assets.get(path);
    if (asset === undefined) throw new HttpError(404, "not found");
    const { type, bytes } = asset;
    response.writeHead(200, { ...SECURITY_HEADERS, "content-type": type, "content-length": bytes.length });
    response.end(method === "HEAD" ? undefined : bytes);
  }
}

/** An operation whose input is checked by its schema when it runs. */
// biome-ignore lint/suspicious/noExplicitAny: the operations have different inputs and outputs.
type AnyOperation = Operation<any, any>;

function readOperationOf(name: string): AnyOperation | undefined {
  return READ_OPERATIONS.find((operation) => operation.name === name);
}

function writeOperationOf(name: string): AnyOperation | undefined {
  return WRITE_OPERATIONS.find((operation) => operation.name === name);
}

function requireMethod({ method = "" }: IncomingMessage, ...allowed: string[]): void {
  if (!allowed.includes(method)) throw new HttpError(405, `expected ${allowed.join(" or ")}`);
}

function accept(refusal: Refusal | undefined): void {
  if (refusal !== undefined) throw new HttpError(refusal.status, refusal.message);
}

function parse<T>(schema: z.ZodType<T>, body: unknown): T {
  const parsed = schema.safeParse(body);
  if (!parsed.success) throw new HttpError(400, z.prettifyError(parsed.error));
  return parsed.data;
}
