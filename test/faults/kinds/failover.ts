/**
 * A replica takes over the slots of its primary during a dispatch: by command, or because the primary dies. A dying
 * primary may lose acknowledged writes that are not replicated, and no dispatcher can recover them. So the case waits
 * for the replica to catch up before it kills the primary.
 */

import { type FaultKind, runToEndWithFault } from "#test/faults/case.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { randomGraph } from "#test/faults/graph.ts";
import { ClusterServers, until } from "#test/faults/servers.ts";
import { VALKEY_POINTS } from "#test/faults/steps.ts";
import { TestBed } from "#test/faults/test-bed.ts";

export const failover: FaultKind = {
  name: "failover",
  cases: { full: 10, quick: 2 },
  // Each case needs a new cluster: a killed primary stays down.
  startTestBed: async () => TestBed.start(await ClusterServers.start(1)),
  isTestBedPerCase: true,
  run: async (context) => {
    const { bed, random } = context;
    const { servers } = bed;
    if (!(servers instanceof ClusterServers)) throw new TypeError("this kind needs a cluster");
    const isKilled = context.number % 2 === 1;
    bed.note(isKilled ? "the primary is killed" : "CLUSTER FAILOVER on the replica");
    const flow = await FlowUnderTest.build(bed, random, randomGraph(random));
    const { primary, replica } = await shardOf(servers, flow.flowKeys.core);
    await runToEndWithFault(context, flow, {
      points: VALKEY_POINTS,
      times: 1,
      inject: async () => {
        await until("the replica to catch up", () => isInSync(servers, primary, replica));
        if (isKilled) await servers.kill(primary);
        else await servers.ask(replica, "CLUSTER", "FAILOVER");
        await until("the replica to become primary", () => isPrimary(servers, replica));
        return isKilled ? "drop" : "pass";
      },
      afterwards: async () => {
        await until("the nodes to agree on the owner of the slots", () =>
          agreeOn(servers, replica, isKilled ? primary : undefined),
        );
        bed.reconnect();
      },
    });
    return flow.compareWithModel();
  },
};

/** The positions of the nodes that serve a key. */
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

/** Whether every live node knows the new owner of the slots and reports the cluster as ok. */
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
      // The line of a primary ends with its slot ranges.
      const isOwner = / (?:myself,)?master /.test(line) && /\d+-\d+\s*$/.test(line);
      return isOwner && String(info).includes("cluster_state:ok");
    }),
  );
  return views.every(Boolean);
}
