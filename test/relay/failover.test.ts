import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, it, vi } from "vitest";
import { attachReplicas } from "#local/valkey-cluster.ts";
import { startValkey, startValkeyCluster, type ValkeyServer } from "#local/valkey-server.ts";
import { newEvent, Publisher } from "#test/relay/events.ts";
import { RelayProcess } from "#test/relay/relay-process.ts";
import { QueueProbe } from "#test/support/dispatch.ts";

const NODE_ARGS = ["--cluster-node-timeout", "1000", "--repl-ping-replica-period", "1"];
const PRIMARIES = 3;

it("subscribes to new nodes, loses no event of live nodes while another dies, and drops the dead node", {
  timeout: 60_000,
}, async () => {
  await using servers = new AsyncDisposableStack();
  const probe = servers.use(await QueueProbe.start());
  const cluster = servers.use(await startValkeyCluster({ primaries: PRIMARIES, extraArgs: NODE_ARGS }));
  const folder = await mkdtemp(join(tmpdir(), "sluice-relay-test-"));
  servers.defer(() => rm(folder, { recursive: true }));
  const healthFile = join(folder, "healthy");
  const relay = servers.use(
    await RelayProcess.subscribed({ url: cluster.url, cluster: true }, probe, PRIMARIES, {
      RELAY_HEALTH_FILE: healthFile,
    }),
  );

  const extraArgs = ["--cluster-enabled", "yes", ...NODE_ARGS];
  const replicas: ValkeyServer[] = [];
  for (let number = 0; number < PRIMARIES; number += 1) {
    replicas.push(servers.use(await startValkey({ extraArgs })));
  }
  const ports = [...cluster.nodes, ...replicas].map(({ port }) => port);
  await attachReplicas(ports.slice(0, PRIMARIES), ports.slice(PRIMARIES));
  await relay.untilSubscribed(ports.length);

  using publisher = new Publisher(ports);
  const [dead] = cluster.nodes;
  const living = ports.map((_, node) => node).slice(1);
  const delivered: string[] = [];
  const nameOfDead = `127.0.0.1:${dead?.port}`;
  const hasDropped = () => relay.logged("node left the cluster").some(({ node }) => node === nameOfDead);
  let isOver = false;
  const publishing = living.map(async (node) => {
    while (!isOver) {
      const { id, text } = newEvent();
      if ((await publisher.publish(node, text)) > 0) delivered.push(id);
      // Limits the number of events, which the queue emulator returns slowly.
      await sleep(10);
    }
  });
  await publisher.publish(0, newEvent().text);
  process.kill(dead?.pid ?? 0, "SIGKILL");
  await vi.waitFor(() => expect(hasDropped()).toBe(true), { timeout: 20_000 });
  isOver = true;
  await Promise.all(publishing);
  expect(relay.logged("node not subscribed, will retry").map(({ node }) => node)).toContain(nameOfDead);
  await vi.waitFor(async () => expect(Date.parse(await readFile(healthFile, "utf8"))).toBeGreaterThan(0), {
    timeout: 10_000,
  });

  const { code, last } = await relay.end();
  expect(code, relay.errors).toBe(0);
  const ids = (await probe.drainEvents()).map(({ executionId }) => executionId as string);
  expect(new Set(ids).size).toBe(ids.length);
  expect(new Set(ids)).toEqual(new Set([...ids, ...delivered]));
  expect(ids.length - delivered.length).toBeLessThanOrEqual(1);
  expect(last).toMatchObject({ nodes: 0, dropped: 0, unsent: 0, malformed: 0 });
});
