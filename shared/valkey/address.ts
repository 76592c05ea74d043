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

/** Where a node listens. An IPv6 address has no brackets. */
export interface NodeAddress {
  readonly host: string;
  readonly port: number;
}

/** The address of a server or cluster, and how to authenticate. */
export interface ValkeyAddress {
  /** `redis://` or `rediss://`. It has a user and password only if `auth` is of kind `url`. */
  readonly url: URL;
  /** More nodes of the cluster to start from, beside that of `url`. One of them must answer. */
  readonly moreNodes?: readonly NodeAddress[];
  readonly cluster: boolean;
  /** Default: kind `url`. */
  readonly auth?: ValkeyAuth;
  /** Certificates to trust instead of Node's own, as PEM text. */
  readonly ca?: string;
}

const DEFAULT_PORT = 6379;

/** Returns the node of a URL. */
export function nodeOf(url: URL): NodeAddress {
  return { host: url.hostname.replace(/^\[|\]$/g, ""), port: Number(url.port || DEFAULT_PORT) };
}

/** Returns the nodes that a client starts from. */
export function seedNodes({ url, moreNodes = [] }: ValkeyAddress): NodeAddress[] {
  return uniqueNodes([nodeOf(url), ...moreNodes]);
}

/** Returns `host:port`, or `[address]:port` for an IPv6 address. For messages and as a key; it is never parsed. */
export function nameOf({ host, port }: NodeAddress): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

/** Removes repeated nodes, and keeps the order. */
export function uniqueNodes(nodes: readonly NodeAddress[]): NodeAddress[] {
  return [...new Map(nodes.map((node) => [nameOf(node), node])).values()];
}
