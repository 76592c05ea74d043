import type { Environment } from "#shared/runtime/environment.ts";

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

/** Where the server is, whether it is a cluster, and how to get in. */
export interface ValkeyAddress {
  /** `redis://` or `rediss://`, with user and password where the server wants them and `auth` does not bring them. */
  readonly url: URL;
  readonly cluster: boolean;
  /** By the URL unless given. */
  readonly auth?: ValkeyAuth;
  /** What to trust in the place of what Node trusts, as PEM text. */
  readonly ca?: string;
}
