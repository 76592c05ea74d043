/**
 * Tokens for ElastiCache's IAM authentication: a presigned request, of which only the signature counts. Source: the
 * ElastiCache user guide, "Authenticating with IAM", and the AWS guide to Signature Version 4.
 */

import { createHash, createHmac, type Hash, type Hmac } from "node:crypto";
import { SignatureV4 } from "@smithy/signature-v4";
import { ValkeyError } from "#shared/errors.ts";
import type { Environment } from "#shared/runtime/environment.ts";

const SERVICE = "elasticache";
/** The longest that ElastiCache takes. */
const TOKEN_LIFE_SECONDS = 900;

export interface IamIdentity {
  readonly user: string;
  readonly replicationGroup: string;
  readonly region: string;
}

/**
 * A token for one connection, made now. The AWS credentials are read from `env` each time, since they rotate. Rejects
 * with a ValkeyError where there are none.
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
    { expiresIn: TOKEN_LIFE_SECONDS, signingDate: now },
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
      "no token can be signed for VALKEY_AUTH=iam: the environment has no AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    );
  }
  return { accessKeyId, secretAccessKey, ...(sessionToken === "" ? {} : { sessionToken }) };
}

/** What the signer hashes with: SHA-256, keyed where it is given a secret. */
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
    throw new Error("a hash is used once");
  }
}

function bytesOf(data: string | ArrayBuffer | ArrayBufferView): string | Uint8Array {
  if (typeof data === "string") return data;
  return ArrayBuffer.isView(data)
    ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    : new Uint8Array(data);
}
