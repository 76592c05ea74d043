/** How a connection proves who it is, and where that comes from. */

import type { RedisOptions } from "iovalkey";
import type { Environment } from "#shared/environment.ts";
import type { ValkeyAddress } from "#shared/valkey/client.ts";
import { authenticatingConnector, type CredentialSource } from "#shared/valkey/connector.ts";

/** What `VALKEY_AUTH` and its companions say. */
export type ValkeyAuth =
  /** User and password stand in the URL, or the server wants none. */
  | { readonly kind: "url" }
  /** A token for ElastiCache, signed with the process' own AWS credentials. */
  | {
      readonly kind: "iam";
      /** The ElastiCache user's id, which is its name as well. */
      readonly user: string;
      readonly replicationGroup: string;
      readonly region: string;
      /** Where AWS credentials stand when a token is signed; the process' environment unless given. */
      readonly environment?: () => Promise<Environment>;
    }
  /** A password in Secrets Manager. */
  | {
      readonly kind: "secret";
      /** ARN or name. */
      readonly secretId: string;
      /** For a secret that names none; empty: the server's default user. */
      readonly user: string;
    };

/**
 * What iovalkey needs to get in: for a client, or as `redisOptions` for the nodes of a cluster. A `Cluster` does not
 * hand a connector on to the connection that it subscribes with: subscribe with a client of one node.
 */
export function accessTo({ url, auth = { kind: "url" }, ca }: ValkeyAddress): RedisOptions {
  const tls = url.protocol === "rediss:" ? { ...(ca === undefined ? {} : { ca }) } : undefined;
  return { Connector: authenticatingConnector(credentialSource(auth, url), tls) };
}

/** What only one kind needs is loaded when it is needed first. */
function credentialSource(auth: ValkeyAuth, url: URL): CredentialSource {
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
