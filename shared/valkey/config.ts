/** Reads the Valkey address, authentication and partition count from the environment. */

import { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { isAbsolute } from "node:path";
import type { Edition } from "#shared/contract/edition.ts";
import { DEFAULT_PARTITION_CONFIG, type PartitionConfig } from "#shared/contract/partitions.ts";
import { messageOf } from "#shared/errors.ts";
import {
  type Environment,
  isSet,
  readChoice,
  readInteger,
  readRequired,
  readUrl,
} from "#shared/runtime/environment.ts";
import { nodeOf, type ValkeyAddress, type ValkeyAuth } from "#shared/valkey/address.ts";

/** Ids of ElastiCache users and replication groups: letters, digits and single hyphens between them. */
const ELASTICACHE_ID = /^[A-Za-z](?:-?[A-Za-z0-9])*$/;
const REGION = /^[a-z]+(?:-[a-z0-9]+)+$/;
const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

/** The configuration that every function with a Valkey connection needs. */
export interface ValkeyConfig {
  readonly valkey: ValkeyAddress;
  readonly partitions: PartitionConfig;
}

/** A character that ends or splits the part before the host moves the rest of a password into host, path or fragment. */
const ESCAPES = "In a user or password, write @ / ? # % as %40 %2F %3F %23 %25";

/**
 * Reads `VALKEY_*`. Appends problems to `errors`, which never contain a part of a password.
 *
 * `VALKEY_URL` may list several nodes of a cluster after one scheme and one user: `rediss://user:password@a:6379,b:6379`.
 */
export function readValkey(env: Environment, errors: string[]): ValkeyAddress {
  const { first, more } = splitNodes(env.VALKEY_URL ?? "");
  const url = readUrl(
    { VALKEY_URL: first },
    "VALKEY_URL",
    ["redis:", "rediss:"],
    "redis://host:6379",
    errors,
    `. ${ESCAPES}`,
  );
  const moreNodes = more.flatMap((text) => {
    const node = URL.parse(`redis://${text}`);
    const isNode = node !== null && node.hostname !== "" && /^[^/?#@]+$/.test(text);
    return isNode ? [nodeOf(node)] : [];
  });
  if (moreNodes.length < more.length) {
    errors.push(
      `VALKEY_URL has a comma that host:port does not follow: list nodes as rediss://a:6379,b:6379. ${ESCAPES}`,
    );
  }
  const cluster = readChoice(env, "VALKEY_CLUSTER_MODE", ["true", "false"], "false", errors) === "true";
  if (more.length > 0 && !cluster) {
    errors.push("VALKEY_URL lists several nodes, but only a cluster has them: set VALKEY_CLUSTER_MODE=true");
  }
  if (!/^\/?\d*$/.test(url.pathname) || url.search !== "" || url.hash !== "") {
    errors.push(`VALKEY_URL has more than a database number after its host: remove the rest. ${ESCAPES}`);
  } else if (/^\w+:\/\/[^/?#]*@[^/?#]*@/.test(env.VALKEY_URL ?? "")) {
    errors.push(`VALKEY_URL has more than one @ before its path. ${ESCAPES}`);
  } else if (cluster && Number(url.pathname.slice(1)) !== 0) {
    errors.push(
      "VALKEY_URL selects a database, but a cluster (VALKEY_CLUSTER_MODE=true) has only database 0",
    );
  }
  const auth = readAuth(env, url, errors);
  const ca = readCa(env, url, errors);
  return {
    url,
    cluster,
    auth,
    ...(moreNodes.length === 0 ? {} : { moreNodes }),
    ...(ca === undefined ? {} : { ca }),
  };
}

/** Splits `scheme://user@a,b/rest` into the URL of the first node, with user and rest, and the other nodes. */
function splitNodes(text: string): { first: string; more: string[] } {
  const [, start = "", nodes = "", rest = ""] =
    /^([a-z]+:\/\/(?:[^/?#]*@)?)([^/?#@]*)(.*)$/is.exec(text) ?? [];
  const [node = "", ...more] = nodes.split(",");
  return more.length === 0 ? { first: text, more } : { first: `${start}${node}${rest}`, more };
}

function readAuth(env: Environment, url: URL, errors: string[]): ValkeyAuth {
  const kind = readChoice(env, "VALKEY_AUTH", ["url", "iam", "secret"], "url", errors);
  if (kind === "url") {
    if (!isDecodable(url.username) || !isDecodable(url.password)) {
      errors.push(
        "VALKEY_URL has a % in its user or password that is not part of an escape: write it as %25",
      );
    }
    return { kind };
  }
  if (url.username !== "" || url.password !== "") {
    errors.push(`VALKEY_URL has a user or password, but VALKEY_AUTH=${kind} does not use them: remove them`);
  }
  if (kind === "secret") {
    const secretId = readRequired(
      env,
      "VALKEY_SECRET",
      /./,
      "the ARN or name of the secret with the password",
      errors,
    );
    return { kind, secretId, user: env.VALKEY_USER ?? "" };
  }
  if (url.protocol === "redis:") {
    errors.push("VALKEY_URL is a redis:// URL, but VALKEY_AUTH=iam requires TLS: use rediss://");
  }
  return {
    kind,
    user: readRequired(env, "VALKEY_USER", ELASTICACHE_ID, "the id of the ElastiCache user", errors),
    replicationGroup: readRequired(
      env,
      "VALKEY_REPLICATION_GROUP",
      ELASTICACHE_ID,
      "the id of the replication group",
      errors,
    ),
    region: readRequired(env, "AWS_REGION", REGION, "the region of the replication group", errors),
  };
}

/** Returns the certificates to trust instead of Node's own, as PEM text. */
function readCa(env: Environment, url: URL, errors: string[]): string | undefined {
  if (!isSet(env, "VALKEY_CA")) return undefined;
  if (url.protocol === "redis:" && isSet(env, "VALKEY_URL")) {
    errors.push("VALKEY_CA is set, but VALKEY_URL is a redis:// URL without TLS: use rediss://");
  }
  const given = env.VALKEY_CA ?? "";
  let pem = given;
  if (isAbsolute(given)) {
    try {
      pem = readFileSync(given, "utf8");
    } catch (error) {
      errors.push(`VALKEY_CA names a file that is not readable: ${messageOf(error)}`);
      return undefined;
    }
  }
  const certificates = pem.match(CERTIFICATE) ?? [];
  if (certificates.length === 0 || !certificates.every(isCertificate)) {
    errors.push(
      "VALKEY_CA is invalid: expected certificates as PEM text, or the absolute path of a PEM file",
    );
  }
  return pem;
}

function isCertificate(pem: string): boolean {
  try {
    return new X509Certificate(pem).raw.length > 0;
  } catch (_unreadable) {
    return false;
  }
}

function isDecodable(text: string): boolean {
  try {
    decodeURIComponent(text);
    return true;
  } catch (_malformed) {
    return false;
  }
}

/** Reads `VALKEY_*` and `FLOW_PARTITIONS`. */
export function readValkeyConfig(env: Environment, errors: string[]): ValkeyConfig {
  const defaultPartitions = DEFAULT_PARTITION_CONFIG.numFlowPartitions;
  return {
    valkey: readValkey(env, errors),
    partitions: {
      ...DEFAULT_PARTITION_CONFIG,
      numFlowPartitions: readInteger(env, "FLOW_PARTITIONS", 1, 65_536, defaultPartitions, errors),
    },
  };
}

/** Reads `LIBRARY_EDITION`. */
export function readEdition(env: Environment, errors: string[]): Edition | "auto" {
  const text = readChoice(env, "LIBRARY_EDITION", ["auto", "11", "14"], "auto", errors);
  if (text === "auto") return "auto";
  return text === "11" ? 11 : 14;
}
