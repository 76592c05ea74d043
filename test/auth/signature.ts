/**
 * A reference implementation of Signature Version 4 for presigned requests, from AWS's documentation ("Authenticating
 * Requests: Using Query Parameters"). It shares no code with the tested signer.
 */

import { createHash, createHmac } from "node:crypto";

export interface PresignedRequest {
  readonly host: string;
  readonly path: string;
  /** Decoded query parameters, including the signature. */
  readonly query: ReadonlyMap<string, string>;
}

/** Parses `host/path?name=value&…`. */
export function parsePresigned(text: string): PresignedRequest {
  const [, host = "", path = "", query = ""] = /^([^/?]*)(\/[^?]*)\?(.*)$/.exec(text) ?? [];
  const pairs = query.split("&").map((pair): [string, string] => {
    const [name = "", ...value] = pair.split("=");
    return [decodeURIComponent(name), decodeURIComponent(value.join("="))];
  });
  return { host, path, query: new Map(pairs) };
}

/** Returns the expected signature of a GET request, in hexadecimal. */
export function signatureOf(
  { host, path, query }: PresignedRequest,
  secretAccessKey: string,
  payloadHash: string,
): string {
  const [date = "", region = "", service = ""] = (query.get("X-Amz-Credential") ?? "").split("/").slice(1);
  const canonicalQuery = [...query]
    .filter(([name]) => name !== "X-Amz-Signature")
    .map(([name, value]) => `${encoded(name)}=${encoded(value)}`)
    .sort()
    .join("&");
  const canonicalRequest = ["GET", path, canonicalQuery, `host:${host}`, "", "host", payloadHash].join("\n");
  const toSign = [
    "AWS4-HMAC-SHA256",
    query.get("X-Amz-Date"),
    `${date}/${region}/${service}/aws4_request`,
    sha256(canonicalRequest),
  ].join("\n");
  let key: Buffer = Buffer.from(`AWS4${secretAccessKey}`);
  for (const part of [date, region, service, "aws4_request"]) key = hmac(key, part);
  return hmac(key, toSign).toString("hex");
}

/** The hash of the empty body of a token's request. */
export const EMPTY_HASH = sha256("");

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

function hmac(key: Buffer, text: string): Buffer {
  return createHmac("sha256", key).update(text).digest();
}

/** Percent-encodes as in RFC 3986: all characters except A–Z, a–z, 0–9, - . _ ~ */
function encoded(text: string): string {
  return [...Buffer.from(text)]
    .map((byte) => {
      const character = String.fromCharCode(byte);
      return /[A-Za-z0-9\-._~]/.test(character)
        ? character
        : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
    })
    .join("");
}
