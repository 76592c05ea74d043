/**
 * The Valkey users of operate-read and operate-write. The tests of operations and commands connect as them: a read operation
 * that writes fails, and so does one whose permission access.json lacks.
 */

import access from "#shared/valkey/access.json" with { type: "json" };
import type { ValkeyAddress } from "#shared/valkey/address.ts";
import { Valkey } from "#shared/valkey/client.ts";

const PASSWORD = "of-an-operator";
const TIMEOUT_MS = 2_000;

type Access = "read" | "write";

/** The servers that were asked, by URL: whether they have the users. */
const servers = new Map<string, Promise<boolean>>();

/**
 * Returns the URL of a server with the user of a function, which it creates there. A URL with a user stays as it is, and so
 * does that of a server that does not answer: then there is nothing to permit.
 */
export async function asOperator(kind: Access, address: ValkeyAddress): Promise<string> {
  const { url } = address;
  if (url.protocol !== "redis:" || url.username !== "") return url.href;
  const known = servers.get(url.href) ?? createOperators(address);
  servers.set(url.href, known);
  if (!(await known)) return url.href;
  const own = new URL(url);
  own.username = userOf(kind);
  own.password = PASSWORD;
  return own.href;
}

async function createOperators(address: ValkeyAddress): Promise<boolean> {
  const valkey = new Valkey(address, { onConnectionError: () => undefined });
  try {
    for (const node of await valkey.primaries()) {
      for (const kind of ["read", "write"] as const) {
        const rules = ["reset", `>${PASSWORD}`, ...access[`operate-${kind}`]];
        await node.callWithin(TIMEOUT_MS, "acl", "SETUSER", userOf(kind), ...rules);
      }
    }
    return true;
  } catch (_unreachable) {
    return false;
  } finally {
    valkey.close();
  }
}

function userOf(kind: Access): string {
  return `operate-${kind}`;
}
