import { setTimeout as sleep } from "node:timers/promises";
import { Redis } from "iovalkey";
import { HOST } from "#local/valkey-process.ts";

const SLOTS = 16_384;
const FORMATION_DEADLINE_MS = 30_000;
const POLL_MS = 50;

/** Joins empty nodes into a cluster of primaries. Waits until each node knows all others and serves its slots. */
export async function formCluster(ports: readonly number[]): Promise<void> {
  const clients = ports.map((port) => new Redis({ host: HOST, port, lazyConnect: true }));
  try {
    await Promise.all(
      clients.map(async (client, index) => {
        const from = Math.floor((SLOTS * index) / clients.length);
        const to = Math.floor((SLOTS * (index + 1)) / clients.length) - 1;
        await client.call("CLUSTER", ["ADDSLOTSRANGE", from, to]);
        // Distinct config epochs avoid the conflict resolution between nodes that share one.
        await client.call("CLUSTER", ["SET-CONFIG-EPOCH", index + 1]);
      }),
    );
    const buses = await Promise.all(clients.map(busPort));
    const [introducer] = clients;
    for (const [index, port] of ports.entries()) {
      if (index > 0) await introducer?.call("CLUSTER", ["MEET", HOST, port, buses[index] ?? 0]);
    }
    await untilAll(clients, (client) => isFormed(client, ports.length, ports.length));
  } finally {
    for (const client of clients) client.disconnect();
  }
}

/**
 * Joins empty nodes as replicas, assigned to the primaries in turn. Waits until every node knows all others and each
 * replica is in sync with its primary.
 */
export async function attachReplicas(
  primaryPorts: readonly number[],
  replicaPorts: readonly number[],
): Promise<void> {
  const connect = (port: number) => new Redis({ host: HOST, port, lazyConnect: true });
  const primaries = primaryPorts.map(connect);
  const replicas = replicaPorts.map(connect);
  const all = [...primaries, ...replicas];
  try {
    const [introducer] = primaries;
    const bus = introducer === undefined ? Number.NaN : await busPort(introducer);
    for (const replica of replicas) await replica.call("CLUSTER", ["MEET", HOST, primaryPorts[0] ?? 0, bus]);
    const known = `cluster_known_nodes:${all.length}`;
    await untilAll(all, async (client) => String(await client.call("CLUSTER", ["INFO"])).includes(known));
    for (const [index, replica] of replicas.entries()) {
      const id: unknown = await primaries[index % primaries.length]?.call("CLUSTER", ["MYID"]);
      await replica.call("CLUSTER", ["REPLICATE", String(id)]);
    }
    await untilAll(replicas, async (client) => (await client.info("replication")).includes("link_status:up"));
    await untilAll(all, (client) => isFormed(client, primaries.length, all.length));
  } finally {
    for (const client of all) client.disconnect();
  }
}

async function untilAll(
  clients: readonly Redis[],
  holds: (client: Redis) => Promise<boolean>,
): Promise<void> {
  const deadline = Date.now() + FORMATION_DEADLINE_MS;
  while (!(await Promise.all(clients.map(holds))).every(Boolean)) {
    if (Date.now() > deadline) throw new Error("the Valkey cluster did not form in time");
    await sleep(POLL_MS);
  }
}

async function busPort(client: Redis): Promise<number> {
  const setting: unknown = await client.call("CONFIG", ["GET", "cluster-port"]);
  return Array.isArray(setting) ? Number(setting[1]) : Number.NaN;
}

async function isFormed(client: Redis, primaries: number, nodes: number): Promise<boolean> {
  const info = String(await client.call("CLUSTER", ["INFO"]));
  const expected = [
    "cluster_state:ok",
    `cluster_slots_ok:${SLOTS}`,
    `cluster_known_nodes:${nodes}`,
    `cluster_size:${primaries}`,
  ];
  const lines = new Set(info.split(/\r?\n/));
  return expected.every((line) => lines.has(line));
}
