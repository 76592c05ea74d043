/**
 * Creates tokens for ElastiCache's IAM authentication. A token is a presigned request that is never sent. Sources: the
 * ElastiCache user guide, "Authenticating with IAM", and the AWS guide to Signature Version 4.
 */

import { createHash, createHmac, type Hash, type Hmac } from "node:crypto";
import { SignatureV4 } from "@smithy/signature-v4";
import { ValkeyError } from "#shared/errors.ts";
import type { Environment } from "#shared/runtime/environment.ts";

const SERVICE = "elasticache";
/** The longest lifetime that ElastiCache accepts. */
const TOKEN_LIFETIME_SECONDS = 900;

export interface IamIdentity {
  readonly user: string;
  readonly replicationGroup: string;
  readonly region: string;
}

/**
 * Returns a new token for one connection, valid for 15 minutes. Reads the AWS credentials from `env` each time, since
 * they rotate. Rejects with a ValkeyError if they are missing.
 */
export async function iamToken(
  { user, replicationGroup, region }: IamIdentity,
  env: Environment = process.env,
  now: Date = new Date(),
): Promise<string> {
  const host = replicationGroup.toLowerCase();
  const signer = new SignatureV4({
    service: SERVICE,
    region,
    credentials: credentialsIn(env),
    sha256: Sha256,
  });
  const { query = {} } = await signer.presign(
    {
      method: "GET",
      protocol: "http:",
      hostname: host,
      path: "/",
      query: { Action: "connect", User: user },
      headers: { host },
    },
    { expiresIn: TOKEN_LIFETIME_SECONDS, signingDate: now },
  );
  const pairs = Object.entries(query).map(([name, value]) => `${name}=${encodeURIComponent(String(value))}`);
  return `${host}/?${pairs.join("&")}`;
}

function credentialsIn(env: Environment) {
  const {
    AWS_ACCESS_KEY_ID: accessKeyId = "",
    AWS_SECRET_ACCESS_KEY: secretAccessKey = "",
    AWS_SESSION_TOKEN: sessionToken = "",
  } = env;
  if (accessKeyId === "" || secretAccessKey === "") {
    throw new ValkeyError(
      "cannot sign a token for VALKEY_AUTH=iam: AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is not set",
    );
  }
  return { accessKeyId, secretAccessKey, ...(sessionToken === "" ? {} : { sessionToken }) };
}

/** The signer's hash: SHA-256, or HMAC-SHA-256 if a secret is given. */
class Sha256 {
  readonly #hash: Hash | Hmac;

  constructor(secret?: string | ArrayBuffer | ArrayBufferView) {
    this.#hash = secret === undefined ? createHash("sha256") : createHmac("sha256", bytesOf(secret));
  }

  update(data: Uint8Array): void {
    this.#hash.update(data);
  }

  async digest(): Promise<Uint8Array> {
    return this.#hash.digest();
  }

  reset(): void {
    throw new Error("reset is not supported");
  }
}

function bytesOf(data: string | ArrayBuffer | ArrayBufferView): string | Uint8Array {
  if (typeof data === "string") return data;
  return ArrayBuffer.isView(data)
    ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    : new Uint8Array(data);
}
