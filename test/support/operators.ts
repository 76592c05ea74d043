/**
 * The Valkey users of operate-read and operate-write. The servers that all tests share have them, and the tests of operations
 * and commands connect as them: a read operation that writes fails, and so does one whose permission access.json lacks.
 */

import { inject } from "vitest";
import access from "#shared/valkey/access.json" with { type: "json" };
import type { Valkey } from "#shared/valkey/client.ts";

const PASSWORD = "of-an-operator";

type Access = "read" | "write";

/** Creates the users on every primary. */
export async function createOperators(valkey: Valkey): Promise<void> {
  for (const node of await valkey.primaries()) {
    for (const kind of ["read", "write"] as const) {
      await node.call("acl", "SETUSER", userOf(kind), "reset", `>${PASSWORD}`, ...access[`operate-${kind}`]);
    }
  }
}

/** Adds the user to the URL of a shared server. The URL of another server stays. */
export function asOperator(kind: Access, href: string): string {
  const shared = ["standaloneUrl", "clusterUrl", "standalone14Url", "cluster14Url"] as const;
  if (!shared.some((name) => inject(name) === href)) return href;
  const url = new URL(href);
  url.username = userOf(kind);
  url.password = PASSWORD;
  return url.href;
}

function userOf(kind: Access): string {
  return `operate-${kind}`;
}
