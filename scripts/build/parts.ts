/** What may be in a function's bundle, and why. A build that finds anything else in one fails. */

import { type Contents, LUA, SLUICE } from "#scripts/build/contents.ts";
import type { Replacement } from "#scripts/build/plugins.ts";

export interface Part {
  readonly name: string;
  readonly why: string;
  readonly packages: readonly string[];
}

export const PARTS: readonly Part[] = [
  { name: "Sluice", why: "the function's own code", packages: [SLUICE] },
  { name: "the Lua library", why: "both editions, to load where a primary has none", packages: [LUA] },
  {
    name: "iovalkey",
    why: "the client of Valkey, and what it requires",
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
    why: "structured logs and metrics, joined to the handler by middy",
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
    why: "sends completions and dead letters, replays them",
    packages: ["@aws-sdk/client-sqs", "@aws-sdk/middleware-sdk-sqs"],
  },
  {
    name: "AWS SDK",
    why: "what clients of AWS share: credentials, signing, HTTP, retries",
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
    name: "Secrets Manager",
    why: "reads the password where VALKEY_AUTH is secret",
    packages: ["@aws-lambda-powertools/parameters", "@aws-sdk/client-secrets-manager"],
  },
];

export const REPLACEMENTS: readonly Replacement[] = [
  { module: "@aws-sdk/credential-provider-node", by: "lambda-credentials.ts" },
  { module: "debug", by: "no-debug.ts" },
  // The SDK's core can stream events in both directions. No operation that we use does.
  { module: "@smithy/core/event-streams" },
];

/** Packages of a bundle of which no part says why they are there. */
export function unexplained({ packages }: Contents, parts = PARTS): string[] {
  const explained = new Set(parts.flatMap((part) => part.packages));
  return [...packages.keys()].filter((name) => !explained.has(name));
}

/** Modules that are to be replaced, and that nothing imports: a new version may import what they were by another name. */
export function unused(bundles: readonly Contents[], replacements = REPLACEMENTS): string[] {
  return replacements
    .map(({ module }) => module)
    .filter((module) => !bundles.some(({ imported }) => imported.has(module)));
}
