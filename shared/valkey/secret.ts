/** The password of Valkey from Secrets Manager. */

import { SecretsProvider } from "@aws-lambda-powertools/parameters/secrets";
import { messageOf, ValkeyError } from "#shared/errors.ts";
import type { Credentials } from "#shared/valkey/connector.ts";

/** Seconds. A rotated password is found sooner, by being refused. */
const MAX_AGE_SECONDS = 300;

export interface SecretIdentity {
  readonly secretId: string;
  readonly user: string;
}

/** Within the deadline of a command, also where the first of two attempts gets no answer. */
const provider = new SecretsProvider({
  clientConfig: { maxAttempts: 2, requestHandler: { connectionTimeout: 1_000, requestTimeout: 2_000 } },
});
/** Connections of a cluster are made at the same time: they share one request. */
const underWay = new Map<string, Promise<Credentials>>();

/**
 * What the secret says: a JSON object with `password` and perhaps `username`, as ElastiCache's rotation writes it, or
 * the bare password. Read from the cache, unless it holds what was `refused`. Rejects with a ValkeyError that shows
 * nothing of the secret.
 */
export async function readSecret(identity: SecretIdentity, refused?: Credentials): Promise<Credentials> {
  const known = await fetchOnce(identity, false);
  if (refused === undefined || known.password !== refused.password) return known;
  return fetchOnce(identity, true);
}

function fetchOnce(identity: SecretIdentity, forceFetch: boolean): Promise<Credentials> {
  const key = `${identity.secretId} ${forceFetch}`;
  let fetching = underWay.get(key);
  if (fetching === undefined) {
    fetching = fetchSecret(identity, forceFetch).finally(() => underWay.delete(key));
    underWay.set(key, fetching);
  }
  return fetching;
}

async function fetchSecret({ secretId, user }: SecretIdentity, forceFetch: boolean): Promise<Credentials> {
  let value: string | Uint8Array | undefined;
  try {
    value = await provider.get(secretId, { maxAge: MAX_AGE_SECONDS, forceFetch });
  } catch (error) {
    throw new ValkeyError(`the secret ${secretId} (VALKEY_SECRET) cannot be read: ${messageOf(error)}`);
  }
  const credentials = typeof value === "string" ? credentialsIn(value, user) : undefined;
  if (credentials !== undefined) return credentials;
  throw new ValkeyError(
    `the secret ${secretId} (VALKEY_SECRET) is neither a password nor a JSON object with a password in it`,
  );
}

function credentialsIn(text: string, user: string): Credentials | undefined {
  const object = objectIn(text);
  if (object === undefined) return text === "" ? undefined : { username: user, password: text };
  const { username = user, password } = object;
  return typeof username === "string" && typeof password === "string" && password !== ""
    ? { username, password }
    : undefined;
}

/** Undefined where the text is no JSON object: then it is the password itself. */
function objectIn(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? { ...value } : undefined;
  } catch (_plain) {
    return undefined;
  }
}
