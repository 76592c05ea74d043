/** Reads Valkey's password from Secrets Manager. */

import { SecretsProvider } from "@aws-lambda-powertools/parameters/secrets";
import { messageOf, ValkeyError } from "#shared/errors.ts";
import type { Credentials } from "#shared/valkey/connector.ts";

/** How long a secret is cached. After a rotation it is read sooner, since the server rejects the old password. */
const MAX_AGE_SECONDS = 300;

export interface SecretIdentity {
  readonly secretId: string;
  readonly user: string;
}

/** Two attempts must fit into the timeout of a command. */
const provider = new SecretsProvider({
  clientConfig: { maxAttempts: 2, requestHandler: { connectionTimeout: 1_000, requestTimeout: 2_000 } },
});
/** Requests in flight. Connections to cluster nodes are opened at the same time and share one request. */
const inFlight = new Map<string, Promise<Credentials>>();

/**
 * Returns the credentials in a secret. The secret is a JSON object with `password` and optionally `username`, as
 * ElastiCache's rotation writes it, or the bare password. Uses the cache, unless the cached password is the `rejected`
 * one. Rejects with a ValkeyError that contains no part of the secret.
 */
export async function readSecret(identity: SecretIdentity, rejected?: Credentials): Promise<Credentials> {
  const cached = await fetchOnce(identity, false);
  if (rejected === undefined || cached.password !== rejected.password) return cached;
  return fetchOnce(identity, true);
}

function fetchOnce(identity: SecretIdentity, forceFetch: boolean): Promise<Credentials> {
  const key = `${identity.secretId} ${forceFetch}`;
  let fetching = inFlight.get(key);
  if (fetching === undefined) {
    fetching = fetchSecret(identity, forceFetch).finally(() => inFlight.delete(key));
    inFlight.set(key, fetching);
  }
  return fetching;
}

async function fetchSecret({ secretId, user }: SecretIdentity, forceFetch: boolean): Promise<Credentials> {
  let value: string | Uint8Array | undefined;
  try {
    value = await provider.get(secretId, { maxAge: MAX_AGE_SECONDS, forceFetch });
  } catch (error) {
    throw new ValkeyError(`cannot read the secret ${secretId} (VALKEY_SECRET): ${messageOf(error)}`);
  }
  const credentials = typeof value === "string" ? credentialsIn(value, user) : undefined;
  if (credentials !== undefined) return credentials;
  throw new ValkeyError(
    `the secret ${secretId} (VALKEY_SECRET) is invalid: expected a password or a JSON object with a password`,
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

/** Returns undefined if the text is not a JSON object: then the text itself is the password. */
function objectIn(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? { ...value } : undefined;
  } catch (_plain) {
    return undefined;
  }
}
