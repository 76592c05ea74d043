/** How a connection proves who it is, and where that comes from. */

import type { RedisOptions } from "iovalkey";
import type { ValkeyAddress, ValkeyAuth } from "#shared/valkey/address.ts";
import { authenticatingConnector, type CredentialProvider } from "#shared/valkey/connector.ts";

/**
 * What iovalkey needs to get in: for a client, or as `redisOptions` for the nodes of a cluster. A `Cluster` does not
 * hand a connector on to the connection that it subscribes with: subscribe with a client of one node.
 */
export function connectionOptions({ url, auth = { kind: "url" }, ca }: ValkeyAddress): RedisOptions {
  const tls = url.protocol === "rediss:" ? { ...(ca === undefined ? {} : { ca }) } : undefined;
  return { Connector: authenticatingConnector(credentialSource(auth, url), tls) };
}

/** What only one kind needs is loaded when it is needed first. */
function credentialSource(auth: ValkeyAuth, url: URL): CredentialProvider {
  switch (auth.kind) {
    case "url": {
      const credentials = {
        username: decodeURIComponent(url.username),
        password: decodeURIComponent(url.password),
      };
      const areGiven = url.username !== "" || url.password !== "";
      return async () => (areGiven ? credentials : undefined);
    }
    case "secret":
      return async (refused) => {
        const { readSecret } = await import("#shared/valkey/secret.ts");
        return readSecret(auth, refused);
      };
    case "iam":
      return async (refused) => {
        // Another token would say the same.
        if (refused !== undefined) return refused;
        const { iamToken } = await import("#shared/valkey/iam-token.ts");
        return { username: auth.user, password: await iamToken(auth, await auth.environment?.()) };
      };
  }
}
