import { Redis } from "iovalkey";
import { expect, it } from "vitest";
import { ClusterServers, Standalone, until } from "#test/faults/servers.ts";

it("a server restarts on its port after SIGKILL, with every acknowledged write", async () => {
  await using servers = await Standalone.persistent();
  const write = new Redis({
    host: servers.url.hostname,
    port: Number(servers.url.port),
    retryStrategy: () => null,
  });
  write.on("error", () => undefined);
  await write.set("key", "kept");
  await servers.restart();
  const read = new Redis({ host: servers.url.hostname, port: Number(servers.url.port) });
  expect(await read.get("key")).toBe("kept");
  write.disconnect();
  read.disconnect();
});

it("in a cluster with replicas each primary has one, all announce the given ports, and a replica takes over", async () => {
  await using servers = await ClusterServers.start(1);
  expect(servers.ports).toHaveLength(6);
  const roles = await Promise.all(
    servers.ports.map(async (_, node) => String(await servers.ask(node, "INFO", "replication"))),
  );
  expect(roles.map((role) => /role:(\w+)/.exec(role)?.[1])).toEqual([
    ...["master", "master", "master"],
    ...["slave", "slave", "slave"],
  ]);
  expect(roles.slice(0, 3).every((role) => role.includes("connected_slaves:1"))).toBe(true);
  const announced = servers.ports.map((port) => (port === 65_535 ? 1_024 : port + 1));
  await servers.announce(announced);
  const slots = JSON.stringify(await servers.ask(0, "CLUSTER", "SLOTS"));
  for (const port of announced) expect(slots).toContain(String(port));

  // A replica takes over when its primary dies.
  await servers.kill(0);
  await until("the replica to become primary", async () =>
    String(await servers.ask(3, "INFO", "replication")).includes("role:master"),
  );
});
