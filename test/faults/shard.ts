/** The two nodes of a cluster that serve a flow, and their state. */

import type { ClusterServers } from "#test/faults/servers.ts";

/** The positions of the nodes that serve a key. */
export interface Shard {
  readonly primary: number;
  readonly replica: number;
}

/** Finds the nodes of a key in a cluster with one replica per primary, before any failover. */
export async function shardOf(servers: ClusterServers, key: string): Promise<Shard> {
  const slot = Number(await servers.ask(0, "CLUSTER", "KEYSLOT", key));
  const primaries = servers.ports.length / 2;
  const primary = Math.floor(((slot + 1) * primaries - 1) / 16_384);
  return { primary, replica: primary + primaries };
}

/** Whether the replica has received every write of the primary. */
export async function isInSync(servers: ClusterServers, { primary, replica }: Shard): Promise<boolean> {
  const [written, received] = await Promise.all([
    offsetOf(servers, primary, "master_repl_offset"),
    offsetOf(servers, replica, "slave_repl_offset"),
  ]);
  return written === received;
}

async function offsetOf(servers: ClusterServers, node: number, field: string): Promise<string> {
  const text = String(await servers.ask(node, "INFO", "replication"));
  return (
    text
      .split(/\r?\n/)
      .find((line) => line.startsWith(`${field}:`))
      ?.slice(field.length + 1) ?? ""
  );
}

export async function isPrimary(servers: ClusterServers, node: number): Promise<boolean> {
  return String(await servers.ask(node, "INFO", "replication")).includes("role:master");
}

/** Whether every live node knows the new owner of the slots and reports the cluster as ok. */
export async function agreeOn(
  servers: ClusterServers,
  owner: number,
  dead: number | undefined,
): Promise<boolean> {
  const id = String(await servers.ask(owner, "CLUSTER", "MYID"));
  const living = [...servers.ports.keys()].filter((node) => node !== dead);
  const views = await Promise.all(
    living.map(async (node) => {
      const [info, nodes] = await Promise.all([
        servers.ask(node, "CLUSTER", "INFO"),
        servers.ask(node, "CLUSTER", "NODES"),
      ]);
      const line =
        String(nodes)
          .split("\n")
          .find((text) => text.startsWith(id)) ?? "";
      // The line of a primary ends with its slot ranges.
      const isOwner = / (?:myself,)?master /.test(line) && /\d+-\d+\s*$/.test(line);
      return isOwner && String(info).includes("cluster_state:ok");
    }),
  );
  return views.every(Boolean);
}
