/** Discovers the nodes of a cluster. Any node can be asked, also while others are down. */

import { NodeConnection } from "#relay/node.ts";
import { messageOf, ValkeyError } from "#shared/errors.ts";
import type { NodeAddress, ValkeyAddress } from "#shared/valkey/address.ts";
import { Topology } from "#shared/valkey/topology.ts";

/**
 * Lists the cluster's nodes, replicas included, as seen by the first of `candidates` that answers. Rejects with a
 * ValkeyError if none answers before `signal` aborts.
 */
export async function findNodes(
  address: ValkeyAddress,
  candidates: readonly NodeAddress[],
  signal: AbortSignal,
): Promise<readonly NodeAddress[]> {
  let last: unknown = new Error("no candidates");
  for (const candidate of candidates) {
    if (signal.aborted) break;
    const connection = new NodeConnection(address, candidate);
    try {
      const slots = await connection.ask(() => connection.client.call("cluster", ["SLOTS"]));
      return new Topology(slots, candidate).nodes;
    } catch (error) {
      last = error;
    } finally {
      connection.close();
    }
  }
  throw new ValkeyError(`no node lists the nodes of the cluster: ${messageOf(last)}`);
}
