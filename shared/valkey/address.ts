import type { Environment } from "#shared/runtime/environment.ts";

/** How to authenticate, as set by `VALKEY_AUTH` and its related variables. */
export type ValkeyAuth =
  /** User and password from the URL, if the server requires them. */
  | { readonly kind: "url" }
  /** An ElastiCache IAM token, signed with the AWS credentials of the process. */
  | {
      readonly kind: "iam";
      /** The id of the ElastiCache user, which must equal its name. */
      readonly user: string;
      readonly replicationGroup: string;
      readonly region: string;
      /** Returns the variables with the AWS credentials, for each token. Default: `process.env`. */
      readonly environment?: () => Promise<Environment>;
    }
  /** A password from Secrets Manager. */
  | {
      readonly kind: "secret";
      /** ARN or name. */
      readonly secretId: string;
      /** The user if the secret has no `username`. Empty: the server's default user. */
      readonly user: string;
    };

/** The address of a server or cluster, and how to authenticate. */
export interface ValkeyAddress {
  /** `redis://` or `rediss://`. It has a user and password only if `auth` is of kind `url`. */
  readonly url: URL;
  readonly cluster: boolean;
  /** Default: kind `url`. */
  readonly auth?: ValkeyAuth;
  /** Certificates to trust instead of Node's own, as PEM text. */
  readonly ca?: string;
}
