/**
 * A replica takes over its primary's slots at a step of a dispatch: because it is told to, or because the primary
 * dies. A primary may lose writes that it acknowledged and had not replicated; that is Valkey's bargain and nothing
 * that a dispatcher can mend, so the replica has all of them before the primary is killed.
 */

import { driveThrough, type Kind } from "#test/faults/case.ts";
import { randomGraph } from "#test/faults/graph.ts";
import { Rig } from "#test/faults/rig.ts";
import { ClusterServers, until } from "#test/faults/servers.ts";
import { VALKEY_POINTS } from "#test/faults/steps.ts";
import { World } from "#test/faults/world.ts";

export const failover: Kind = {
  name: "failover",
  cases: { full: 10, quick: 2 },
  // A cluster of its own for each case: a killed primary does not come back.
  rig: async () => Rig.start(await ClusterServers.start(1)),
  isRigPerCase: true,
  run: async (context) => {
    const { rig, random } = context;
    const { servers } = rig;
    if (!(servers instanceof ClusterServers)) throw new TypeError("this kind needs a cluster");
    const isKilled = context.number % 2 === 1;
    rig.note(isKilled ? "the primary is killed" : "the replica is told to take over");
    const world = await World.build(rig, random, randomGraph(random));
    const { primary, replica } = await shardOf(servers, world.flow.core);
    await driveThrough(context, world, {
      points: VALKEY_POINTS,
      times: 1,
      strike: async () => {
        await until("the replica's being in sync", () => isInSync(servers, primary, replica));
        if (isKilled) await servers.kill(primary);
        else await servers.ask(replica, "CLUSTER", "FAILOVER");
        await until("the take-over", () => isPrimary(servers, replica));
        return isKilled ? "drop" : "pass";
      },
      afterwards: async () => {
        await until("the cluster's agreement", () =>
          agreeOn(servers, replica, isKilled ? primary : undefined),
        );
        rig.reconnect();
      },
    });
    return world.judge();
  },
};

/** The nodes that serve a key: their positions. */
async function shardOf(servers: ClusterServers, key: string): Promise<{ primary: number; replica: number }> {
  const slot = Number(await servers.ask(0, "CLUSTER", "KEYSLOT", key));
  const primaries = servers.ports.length / 2;
  const primary = Math.floor(((slot + 1) * primaries - 1) / 16_384);
  return { primary, replica: primary + primaries };
}

async function isInSync(servers: ClusterServers, primary: number, replica: number): Promise<boolean> {
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

async function isPrimary(servers: ClusterServers, node: number): Promise<boolean> {
  return String(await servers.ask(node, "INFO", "replication")).includes("role:master");
}

/** Whether every node but a dead one knows who serves the slots now, and that all are served. */
async function agreeOn(servers: ClusterServers, owner: number, dead: number | undefined): Promise<boolean> {
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
      // Slots stand at the end of a primary's line, as ranges.
      const isOwner = / (?:myself,)?master /.test(line) && /\d+-\d+\s*$/.test(line);
      return isOwner && String(info).includes("cluster_state:ok");
    }),
  );
  return views.every(Boolean);
}
