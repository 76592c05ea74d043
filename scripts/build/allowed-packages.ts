/** The packages that a function's bundle may contain, with reasons. A build fails if it finds another one. */

import { type BundleContents, LUA, SLUICE } from "#scripts/build/contents.ts";
import type { Replacement } from "#scripts/build/plugins.ts";

/** Packages that a bundle needs for one reason. */
export interface PackageGroup {
  readonly name: string;
  readonly why: string;
  readonly packages: readonly string[];
}

export const PACKAGE_GROUPS: readonly PackageGroup[] = [
  { name: "Sluice", why: "the function's own code", packages: [SLUICE] },
  { name: "the Lua library", why: "both editions, to load into primaries that lack it", packages: [LUA] },
  {
    name: "iovalkey",
    why: "the Valkey client and its dependencies",
    packages: [
      "iovalkey",
      "@iovalkey/commands",
      "cluster-key-slot",
      "denque",
      "lodash.defaults",
      "lodash.isarguments",
      "redis-errors",
      "redis-parser",
      "standard-as-callback",
    ],
  },
  {
    name: "Powertools",
    why: "structured logs and metrics, as middy middleware",
    packages: [
      "@aws-lambda-powertools/commons",
      "@aws-lambda-powertools/logger",
      "@aws-lambda-powertools/metrics",
      "@aws/lambda-invoke-store",
      "@middy/core",
    ],
  },
  {
    name: "SQS",
    why: "sends completions, sends and replays dead letters",
    packages: ["@aws-sdk/client-sqs", "@aws-sdk/middleware-sdk-sqs"],
  },
  {
    name: "AWS SDK",
    why: "shared by all AWS clients: credentials, signing, HTTP, retries",
    packages: [
      "@aws-sdk/core",
      "@aws-sdk/credential-provider-env",
      "@aws-sdk/credential-provider-http",
      "@smithy/core",
      "@smithy/node-http-handler",
      "@smithy/signature-v4",
      "@smithy/types",
    ],
  },
  {
    name: "zod",
    why: "checks the input of the operations of `sluice --stage`",
    packages: ["zod"],
  },
  { name: "uuid", why: "derives the execution ids of submitted workflows", packages: ["uuid"] },
  {
    name: "uuid",
    why: "the ids of a submitted workflow's executions are derived from its flow id",
    packages: ["uuid"],
  },
  {
    name: "Secrets Manager",
    why: "reads the password if VALKEY_AUTH is secret",
    packages: ["@aws-lambda-powertools/parameters", "@aws-sdk/client-secrets-manager"],
  },
];

export const REPLACEMENTS: readonly Replacement[] = [
  { module: "@aws-sdk/credential-provider-node", by: "lambda-credentials.ts" },
  { module: "debug", by: "no-debug.ts" },
  // The messages of zod in 50 languages. It imports English by another name.
  { module: "../locales/index.js", by: "no-locales.ts" },
  // Bidirectional event streams: no operation that Sluice uses has them.
  { module: "@smithy/core/event-streams" },
];

/** Packages of a bundle that no group lists. */
export function unlistedPackages({ packages }: BundleContents, groups = PACKAGE_GROUPS): string[] {
  const listed = new Set(groups.flatMap((group) => group.packages));
  return [...packages.keys()].filter((name) => !listed.has(name));
}

/** Replaced modules that no bundle imports: a new version of a dependency may import them by another name. */
export function unusedReplacements(
  bundles: readonly BundleContents[],
  replacements = REPLACEMENTS,
): string[] {
  return replacements
    .map(({ module }) => module)
    .filter((module) => !bundles.some(({ imported }) => imported.has(module)));
}
