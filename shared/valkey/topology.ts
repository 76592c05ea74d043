/** The nodes of a cluster and the slots that they serve, from the reply of CLUSTER SLOTS. */

import { ProtocolError } from "#shared/errors.ts";
import { type NodeAddress, nameOf, uniqueNodes } from "#shared/valkey/address.ts";

interface SlotRange {
  readonly first: number;
  readonly last: number;
  readonly primary: NodeAddress;
}

/** What one node knows about its cluster. */
export class Topology {
  /** All nodes, replicas included. */
  readonly nodes: readonly NodeAddress[];
  /** The primaries that serve slots. */
  readonly primaries: readonly NodeAddress[];
  readonly #ranges: readonly SlotRange[];

  /**
   * Parses the reply of CLUSTER SLOTS from the node `asked`. A node without a known address is skipped. Throws a
   * ProtocolError if there is no other.
   */
  constructor(reply: unknown, asked: NodeAddress) {
    const nodes: NodeAddress[] = [];
    const ranges: SlotRange[] = [];
    for (const range of listIn(reply)) {
      // The first and last slot, the primary, and the replicas.
      const [first, last, ...entries] = listIn(range);
      const [primary, ...replicas] = entries.map((entry) => nodeIn(entry, asked));
      for (const node of [primary, ...replicas]) if (node !== undefined) nodes.push(node);
      if (primary === undefined || typeof first !== "number" || typeof last !== "number") continue;
      ranges.push({ first, last, primary });
    }
    this.#ranges = ranges;
    this.nodes = uniqueNodes(nodes);
    this.primaries = uniqueNodes(ranges.map(({ primary }) => primary));
    if (this.nodes.length === 0) {
      throw new ProtocolError(`CLUSTER SLOTS of ${nameOf(asked)} lists no nodes`);
    }
  }

  /** Returns the primary that serves a slot. */
  primaryOf(slot: number): NodeAddress | undefined {
    return this.#ranges.find(({ first, last }) => first <= slot && slot <= last)?.primary;
  }
}

/** Reads one node: its preferred endpoint, its port, its id and, since version 7, more endpoints as names and values. */
function nodeIn(entry: unknown, asked: NodeAddress): NodeAddress | undefined {
  const [endpoint, port, , metadata] = listIn(entry);
  if (typeof port !== "number" || port <= 0) return undefined;
  const host = hostIn(endpoint, listIn(metadata), asked);
  return host === undefined ? undefined : { host, port };
}

function hostIn(endpoint: unknown, metadata: readonly unknown[], asked: NodeAddress): string | undefined {
  // Null with `cluster-preferred-endpoint-type unknown-endpoint`, empty if the node does not know its address: in both
  // cases, the node is at the host that was asked, and only its port differs.
  if (endpoint === null || endpoint === "") return asked.host;
  if (typeof endpoint !== "string") return undefined;
  if (endpoint !== "?") return endpoint;
  // With `cluster-preferred-endpoint-type hostname`, the node has not announced a hostname.
  const ip = metadata[metadata.indexOf("ip") + 1];
  return metadata.includes("ip") && typeof ip === "string" && ip !== "" ? ip : undefined;
}

function listIn(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}
