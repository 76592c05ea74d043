/** What the templates take from the code, so that neither can name what the other has not. */

import { createHash } from "node:crypto";
import { librarySource } from "#lua/library.ts";
import rules from "#shared/valkey/access.json" with { type: "json" };
import { dashboardBody } from "./dashboard.ts";

/** ElastiCache's access string of each function's user. */
export const access = Object.fromEntries(
  Object.entries(rules).map(([functionName, words]) => [functionName, words.join(" ")]),
);

/** Another library is provided anew. Either edition may be the one that is loaded. */
export const libraryHash = hashOf(librarySource(11) + librarySource(14));

/** CloudFormation puts the region and the names in. */
export const dashboard = { "Fn::Sub": JSON.stringify(dashboardBody) };

/** What osls hands to a function that a variable names. */
interface Variables {
  readonly resolveVariable: (variable: string) => Promise<unknown>;
}

/** Says that the address is another one without saying it: it may hold a password. */
export async function addressHash({ resolveVariable }: Variables): Promise<string> {
  return hashOf(String(await resolveVariable("param:valkeyUrl")));
}

function hashOf(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
