/** How many bytes of Valkey's memory executions and edges take, by MEMORY USAGE of all their keys. */

import { randomUUID } from "node:crypto";
import { type BenchContext, expectEqual } from "#bench/benchmark.ts";
import { invoke, startFunction } from "#bench/dispatching.ts";
import { layered, Outbox, ROUTER, submit } from "#bench/flows.ts";
import { atMost, type Row } from "#bench/report.ts";
import { BenchServer } from "#bench/server.ts";
import { workBatch } from "#sdk/worker/worker.ts";
import {
  type FlowId,
  type LaneId,
  mintExecutionId,
  type Partition,
  parseFlowId,
  parseLaneId,
  unwrap,
} from "#shared/contract/ids.ts";
import type { Completion } from "#shared/contract/message.ts";
import { createExecution } from "#shared/contract/submission.ts";
import { valueOrThrow } from "#shared/valkey/batches.ts";

const MAX_EXECUTION_BYTES = 1_800;
const MAX_EDGE_BYTES = 1_350;
const EDGES_PER_NODE = 4;
/** Keys that exist only because of edges. */
const EDGE_KEY = /:(?:edge|in|out|dep|deps|edgegroup):/;
const IDENTITY = { workerId: "bench", instanceId: "bench-1" };
const LANE = unwrap(parseLaneId("default"));
/** A lane whose partition has three digits, as most have: the keys and ids are then the longest. */
const SOLO_LANE = unwrap(parseLaneId("workers-a"));

/** A flow id whose partition has three digits. */
function newFlowId(): FlowId {
  for (;;) {
    const id = unwrap(parseFlowId(randomUUID()));
    if (ROUTER.flowPartition(id) >= 100) return id;
  }
}

/** The bytes of all keys of a partition that match. */
async function bytesIn({ client }: BenchServer, partition: Partition, matching = /./): Promise<number> {
  let bytes = 0;
  for await (const page of client.scanStream({ match: `*{fp:${partition}}*`, count: 1_000 })) {
    const keys = Array.isArray(page) ? page.map(String).filter((key) => matching.test(key)) : [];
    const usages = await Promise.all(
      keys.map((key) => client.call("memory", ["usage", key, "samples", "0"])),
    );
    bytes += usages.reduce<number>((sum, usage) => sum + Number(usage), 0);
  }
  return bytes;
}

/** Ends all eligible executions with success and without a result. Returns their completions. */
async function workAll(
  server: BenchServer,
  partition: Partition,
  lane: LaneId,
): Promise<readonly Completion[]> {
  const outbox = new Outbox();
  const deps = { valkey: server.valkey, router: ROUTER, completions: outbox, identity: IDENTITY };
  for (;;) {
    const worked = await workBatch(
      deps,
      { partition, lane },
      () => Promise.resolve({ outcome: "success", result: "" }),
      {
        limit: 100,
      },
    );
    if (worked.length === 0) return outbox.sent;
  }
}

/** Executions without a flow. */
async function soloExecutions(count: number): Promise<number> {
  await using server = await BenchServer.start();
  const partition = ROUTER.soloPartition(SOLO_LANE);
  const creations = Array.from({ length: count }, () =>
    createExecution({
      keys: ROUTER.execKeys(unwrap(mintExecutionId(partition, randomUUID()))),
      index: ROUTER.indexKeys(partition),
      namespace: "default",
      lane: SOLO_LANE,
      kind: "task",
      priority: 0,
      creator: "sluice",
      policyJson: "",
      payload: "",
    }),
  );
  for (const result of await server.valkey.pipelined(creations)) valueOrThrow(result);
  await workAll(server, partition, SOLO_LANE);
  const ended = await server.client.zcard(ROUTER.indexKeys(partition).lane(SOLO_LANE).terminal);
  expectEqual("executions that ended", ended, count);
  return (await bytesIn(server, partition)) / count;
}

/** Members of a flow without edges. */
async function memberExecutions(count: number): Promise<number> {
  await using server = await BenchServer.start();
  const tasks = Array.from({ length: count }, (_, number) => ({
    id: `task-${number}`,
    lane: LANE,
    priority: 0,
    payload: "",
  }));
  const { plan } = await submit(server.valkey, { name: "members", tasks, edges: [] }, ROUTER, newFlowId());
  const completions = await workAll(server, plan.flow.partition, LANE);
  expectEqual("executions that ended", completions.length, count);
  return (await bytesIn(server, plan.flow.partition)) / count;
}

/** Edges of a graph in which every node but the first layer has four upstreams: when submitted, and when all has ended. */
async function edges(nodes: number): Promise<{ readonly submitted: number; readonly ended: number }> {
  await using server = await BenchServer.start();
  const { plan } = await submit(server.valkey, layered(nodes), ROUTER, newFlowId());
  const { partition } = plan.flow;
  const children = plan.tasks.filter(({ incoming }) => incoming.length > 0).length;
  expectEqual("edges", plan.edgeCount, EDGES_PER_NODE * children);
  const submitted = (await bytesIn(server, partition, EDGE_KEY)) / plan.edgeCount;
  await using fn = startFunction({ name: "dispatch", valkeyUrl: server.url });
  let ended = 0;
  for (;;) {
    const completions = await workAll(server, partition, LANE);
    if (completions.length === 0) break;
    await invoke(fn, completions);
    ended += completions.length;
  }
  expectEqual("executions that ended", ended, plan.tasks.length);
  return { submitted, ended: (await bytesIn(server, partition, EDGE_KEY)) / plan.edgeCount };
}

export async function storedMemory({ quick, note }: BenchContext): Promise<Row[]> {
  note("bytes in Valkey");
  const count = quick ? 50 : 1_000;
  const [solo, member] = [await soloExecutions(count), await memberExecutions(count)];
  const { submitted, ended } = await edges(count);
  return [
    {
      what: "a finished execution without payload",
      figures: { stored_bytes: solo, flow_member_stored_bytes: member },
      goals: quick ? [] : [atMost(`at most ${MAX_EXECUTION_BYTES} bytes`, solo, MAX_EXECUTION_BYTES)],
    },
    {
      what: "an edge, four at each node, of a flow that has ended",
      figures: { stored_bytes: ended, stored_bytes_when_submitted: submitted },
      goals: quick ? [] : [atMost(`at most ${MAX_EDGE_BYTES} bytes`, ended, MAX_EDGE_BYTES)],
    },
  ];
}
