/** Discovers the nodes of a cluster. Any node can be asked, also while others are down. */

import { type NodeAddress, NodeConnection } from "#relay/node.ts";
import { messageOf, ProtocolError, ValkeyError } from "#shared/errors.ts";
import type { ValkeyAddress } from "#shared/valkey/address.ts";

/**
 * Lists the cluster's nodes, replicas included, as seen by the first of `candidates` that answers. Rejects with a
 * ValkeyError if none answers before `signal` aborts.
 */
export async function findNodes(
  address: ValkeyAddress,
  candidates: readonly NodeAddress[],
  signal: AbortSignal,
): Promise<NodeAddress[]> {
  let last: unknown = new Error("no candidates");
  for (const candidate of candidates) {
    if (signal.aborted) break;
    const connection = new NodeConnection(address, candidate);
    try {
      return nodesIn(await connection.ask(() => connection.client.call("cluster", ["SLOTS"])), candidate);
    } catch (error) {
      last = error;
    } finally {
      connection.close();
    }
  }
  throw new ValkeyError(`no node lists the nodes of the cluster: ${messageOf(last)}`);
}

/** Parses CLUSTER SLOTS. Each range has its first and last slot, its primary and its replicas (host, port, …). */
function nodesIn(reply: unknown, asked: NodeAddress): NodeAddress[] {
  const nodes = new Map<string, NodeAddress>();
  for (const range of listIn(reply)) {
    for (const entry of listIn(range).slice(2)) {
      const [name, port] = listIn(entry);
      // A node that does not know its address returns an empty host: use the address that was asked.
      const host = typeof name === "string" && name !== "" ? name : asked.host;
      if (host !== "?" && typeof port === "number") nodes.set(`${host}:${port}`, { host, port });
    }
  }
  if (nodes.size === 0) throw new ProtocolError("CLUSTER SLOTS returned no nodes");
  return [...nodes.values()];
}

function listIn(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}
