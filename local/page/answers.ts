/** Reads requests and writes answers in JSON. */

import type { IncomingMessage, ServerResponse } from "node:http";
import { SECURITY_HEADERS } from "#local/page/assets.ts";
import { ConfigurationError, InvalidRequestError, messageOf } from "#shared/errors.ts";

/** A workflow of 5,000,000 characters (the operation `submit`), escaped. */
const MAX_BODY_BYTES = 12_000_000;

/** An error with the status of its answer. */
export class HttpError extends Error {
  override readonly name = "HttpError";
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

export function sendJson(response: ServerResponse, status: number, body: unknown): void {
  const bytes = Buffer.from(JSON.stringify(body));
  response.writeHead(status, {
    ...SECURITY_HEADERS,
    "content-type": "application/json; charset=utf-8",
    "content-length": bytes.length,
  });
  response.end(bytes);
}

/** Answers with what went wrong. A wrong input is the caller's error; all others are the server's. */
export function sendError(response: ServerResponse, error: unknown): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  sendJson(response, statusOf(error), { error: messageOf(error) });
}

function statusOf(error: unknown): number {
  if (error instanceof HttpError) return error.status;
  if (error instanceof InvalidRequestError) return 400;
  return error instanceof ConfigurationError ? 409 : 500;
}

/** Reads a JSON body. Throws an HttpError if it is too large or malformed. */
export async function readJson(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request) {
    bytes += chunk.length;
    if (bytes > MAX_BODY_BYTES) throw new HttpError(413, `the body has more than ${MAX_BODY_BYTES} bytes`);
    chunks.push(chunk);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString("utf8"));
  } catch (error) {
    throw new HttpError(400, `the body is not JSON: ${messageOf(error)}`);
  }
}
