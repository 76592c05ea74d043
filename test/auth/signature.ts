/**
 * Signature Version 4 of presigned requests, written out from AWS's documentation ("Authenticating Requests: Using
 * Query Parameters") and sharing nothing with the signer that is tested.
 */

import { createHash, createHmac } from "node:crypto";

export interface PresignedRequest {
  readonly host: string;
  readonly path: string;
  /** Decoded, the signature included. */
  readonly query: ReadonlyMap<string, string>;
}

/** What `host/path?name=value&…` says. */
export function parsePresigned(text: string): PresignedRequest {
  const [, host = "", path = "", query = ""] = /^([^/?]*)(\/[^?]*)\?(.*)$/.exec(text) ?? [];
  const pairs = query.split("&").map((pair): [string, string] => {
    const [name = "", ...value] = pair.split("=");
    return [decodeURIComponent(name), decodeURIComponent(value.join("="))];
  });
  return { host, path, query: new Map(pairs) };
}

/** The signature that a GET of this request must carry, in hexadecimal. */
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

/** Of nothing, which is what a token's request has as its body. */
export const EMPTY_HASH = sha256("");

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

function hmac(key: Buffer, text: string): Buffer {
  return createHmac("sha256", key).update(text).digest();
}

/** Percent-encoding by RFC 3986: all but A–Z, a–z, 0–9, - . _ ~ */
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
