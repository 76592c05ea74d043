/** Values from the code for the templates, so that both always agree. */

import { createHash } from "node:crypto";
import { librarySource } from "#lua/library.ts";
import rules from "#shared/valkey/access.json" with { type: "json" };
import { dashboardBody } from "./dashboard.ts";

/** The ElastiCache access string for the user of each function. */
export const access = Object.fromEntries(
  Object.entries(rules).map(([functionName, words]) => [functionName, words.join(" ")]),
);

/** Changes with the library, so that a deployment loads it. Covers both editions, since either may be in use. */
export const libraryHash = hashOf(librarySource(11) + librarySource(14));

/** CloudFormation inserts the region and resource names. */
export const dashboard = { "Fn::Sub": JSON.stringify(dashboardBody) };

/** The argument of a function that osls calls for a variable. */
interface Variables {
  readonly resolveVariable: (variable: string) => Promise<unknown>;
}

/** Changes with valkeyUrl without revealing it, since it may contain a password. */
export async function addressHash({ resolveVariable }: Variables): Promise<string> {
  return hashOf(String(await resolveVariable("param:valkeyUrl")));
}

function hashOf(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
