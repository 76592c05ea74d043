/** Which nodes a cluster has, in whatever state it is: any of them may be asked, also while others are away. */

import { type NodeAddress, NodeConnection } from "#relay/node.ts";
import { messageOf, ProtocolError, ValkeyError } from "#shared/errors.ts";
import type { ValkeyAddress } from "#shared/valkey/address.ts";

/**
 * The cluster's nodes, replicas included, as the first of `candidates` that answers sees them. Rejects with a
 * ValkeyError where none does, or where `signal` is aborted before one did.
 */
export async function findNodes(
  address: ValkeyAddress,
  candidates: readonly NodeAddress[],
  signal: AbortSignal,
): Promise<NodeAddress[]> {
  let last: unknown = new Error("there is no node to ask");
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
  throw new ValkeyError(`no node says who is in the cluster: ${messageOf(last)}`);
}

/** CLUSTER SLOTS: for each range its first and last slot, its primary and its replicas, each as host, port and more. */
function nodesIn(reply: unknown, asked: NodeAddress): NodeAddress[] {
  const nodes = new Map<string, NodeAddress>();
  for (const range of listIn(reply)) {
    for (const entry of listIn(range).slice(2)) {
      const [name, port] = listIn(entry);
      // A node that does not know its own name means: where you found me.
      const host = typeof name === "string" && name !== "" ? name : asked.host;
      if (host !== "?" && typeof port === "number") nodes.set(`${host}:${port}`, { host, port });
    }
  }
  if (nodes.size === 0) throw new ProtocolError("CLUSTER SLOTS replied no nodes");
  return [...nodes.values()];
}

function listIn(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}
