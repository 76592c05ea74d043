/** Authenticates connections with credentials from the URL, from IAM or from Secrets Manager. */

import type { RedisOptions } from "iovalkey";
import type { ValkeyAddress, ValkeyAuth } from "#shared/valkey/address.ts";
import { authenticatingConnector, type CredentialProvider } from "#shared/valkey/connector.ts";

/**
 * Returns iovalkey's options to connect and authenticate: for a client, or as `redisOptions` of a cluster. A `Cluster`
 * does not use them for its subscriber connection: to subscribe, use a client of a single node.
 */
export function connectionOptions({ url, auth = { kind: "url" }, ca }: ValkeyAddress): RedisOptions {
  const tls = url.protocol === "rediss:" ? { ...(ca === undefined ? {} : { ca }) } : undefined;
  return { Connector: authenticatingConnector(credentialProvider(auth, url), tls) };
}

/** Loads the code for IAM and Secrets Manager on first use. */
function credentialProvider(auth: ValkeyAuth, url: URL): CredentialProvider {
  switch (auth.kind) {
    case "url": {
      const credentials = {
        username: decodeURIComponent(url.username),
        password: decodeURIComponent(url.password),
      };
      const hasCredentials = url.username !== "" || url.password !== "";
      return async () => (hasCredentials ? credentials : undefined);
    }
    case "secret":
      return async (rejected) => {
        const { readSecret } = await import("#shared/valkey/secret.ts");
        return readSecret(auth, rejected);
      };
    case "iam":
      return async (rejected) => {
        // A new token would have the same content.
        if (rejected !== undefined) return rejected;
        const { iamToken } = await import("#shared/valkey/iam-token.ts");
        return { username: auth.user, password: await iamToken(auth, await auth.environment?.()) };
      };
  }
}
