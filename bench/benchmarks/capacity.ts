import { type BenchContext, type Benchmark, expectEqual } from "#bench/benchmark.ts";
import {
  type Cost,
  type Costs,
  type Deployment,
  microsOnShards,
  shardsFor,
  simulate,
  skewOf,
} from "#bench/capacity-model.ts";
import { dispatcher } from "#bench/dispatching.ts";
import { type BenchFlow, endRoots, eventOf, expectChildren, Outbox, star, submit } from "#bench/flows.ts";
import { median, timed } from "#bench/measure.ts";
import { startNetwork } from "#bench/network.ts";
import { atMost, type Row } from "#bench/report.ts";
import { BenchServer, type Dataset, raise } from "#bench/server.ts";
import type { CompletionEvent } from "#shared/contract/message.ts";

/** Executions of each measured run. */
const EXECUTIONS = 320;
const ROUNDS = 5;
/** One way: long enough that concurrent dispatchers wait for the network and not for this machine's processors. */
const DELAY_MS = 5;
const MAX_ERROR = 0.25;
const PARTITIONS = 256;
/** Beyond this share, waiting at a shard grows fast, and a failover leaves no reserve. */
const MAX_LOAD = 0.6;
/** A dispatch function with 256 MB, and the round trip of an Availability Zone. */
const LAMBDA = {
  clientSpeed: 0.145,
  roundTripMs: 0.66,
  batchSize: 10,
  idleMs: 0,
  hasSharedClient: false,
  hotShare: 0,
};
const LOG_BYTES = 490;
/** Executions per flow where the costs of submissions and workers are measured: one batch of a worker. */
const ROOTS = 10;
/** A deployment chooses the number once, for its whole life. */
const PARTITION_COUNTS = [256, 1_024, 4_096, 16_384];

/** Completions of executions with a given number of edges, and the server's content before they are dispatched. */
interface Prepared {
  readonly edges: number;
  readonly flows: readonly BenchFlow[];
  readonly events: readonly CompletionEvent[];
  readonly dataset: Dataset;
}

async function prepare(server: BenchServer, edges: number, executions: number): Promise<Prepared> {
  await server.client.flushdb("SYNC");
  const flows: BenchFlow[] = [];
  const events: CompletionEvent[] = [];
  for (let number = 0; number < executions; number += 1) {
    const flow = await submit(server.valkey, star(edges));
    flows.push(flow);
    events.push(...(await endRoots(server.valkey, flow, "success")).map(eventOf));
  }
  return { edges, flows, events, dataset: await server.save() };
}

interface Measured {
  readonly executionsPerSecond: number;
  /** Microseconds per execution. */
  readonly clientMicros: number;
  readonly serverMicros: number;
  /** In both directions, per execution. */
  readonly networkBytes: number;
}

/** Dispatches everything with concurrent dispatchers, each with a connection; the medians of several rounds. */
async function measure(
  { core, quick }: BenchContext,
  server: BenchServer,
  url: URL,
  { flows, events, dataset }: Prepared,
  { dispatchers, batchSize }: Pick<Deployment, "dispatchers" | "batchSize">,
): Promise<Measured> {
  using clients = new DisposableStack();
  const dispatches = Array.from({ length: dispatchers }, () => {
    const valkey = new core.Valkey({ url, cluster: false }, { onConnectionError: raise });
    clients.defer(() => valkey.close());
    return { valkey, dispatch: dispatcher(core, valkey, new Outbox()) };
  });
  const runs: Measured[] = [];
  for (let round = 0; round < (quick ? 2 : ROUNDS + 1); round += 1) {
    await server.restore(dataset);
    await Promise.all(dispatches.map(({ valkey }) => valkey.call("ping")));
    const batches: CompletionEvent[][] = [];
    for (let start = 0; start < events.length; start += batchSize)
      batches.push(events.slice(start, start + batchSize));
    const queue = batches.values();
    const [processor, bytes] = [await server.processorMicros(), await networkBytes(server)];
    const before = process.cpuUsage();
    const ms = await timed(() =>
      Promise.all(
        dispatches.map(async ({ dispatch }) => {
          for (const batch of queue) await dispatch(batch);
        }),
      ),
    );
    const { user, system } = process.cpuUsage(before);
    const serverMicros = (await server.processorMicros()) - processor;
    const sent = (await networkBytes(server)) - bytes;
    await expectChildren(server.valkey, flows, "eligible");
    // The first round is a warm-up.
    if (round === 0) continue;
    runs.push({
      executionsPerSecond: (events.length / ms) * 1_000,
      clientMicros: (user + system) / events.length,
      serverMicros: serverMicros / events.length,
      networkBytes: sent / events.length,
    });
  }
  const medianOf = (field: keyof Measured) => median(runs.map((run) => run[field]));
  return {
    executionsPerSecond: medianOf("executionsPerSecond"),
    clientMicros: medianOf("clientMicros"),
    serverMicros: medianOf("serverMicros"),
    networkBytes: medianOf("networkBytes"),
  };
}

/** A round trip through the proxy, whose timers are late on a busy machine. */
async function pingMs({ core, quick }: BenchContext, url: URL): Promise<number> {
  using clients = new DisposableStack();
  const valkey = clients.adopt(
    new core.Valkey({ url, cluster: false }, { onConnectionError: raise }),
    (connected) => connected.close(),
  );
  const pings: number[] = [];
  for (let round = 0; round < (quick ? 5 : 50); round += 1)
    pings.push(await timed(() => valkey.call("ping")));
  return median(pings);
}

async function networkBytes(server: BenchServer): Promise<number> {
  const stats = await server.client.info("stats");
  let bytes = 0;
  for (const [, count] of stats.matchAll(/total_net_(?:input|output)_bytes:(\d+)/g)) bytes += Number(count);
  return bytes;
}

/** Solves for the cost of a batch, an execution and an edge, from three measurements per execution. */
function costFrom(alone: number, oneEdge: number, tenEdges: number): Cost {
  const edge = Math.max(0, (tenEdges - oneEdge) / 9);
  const batch = Math.max(0, (alone - oneEdge) / (1 - 1 / 10));
  return { batch, edge, execution: Math.max(0, alone - batch - edge) };
}

/** The server's time for the rest of an execution's life, in microseconds: its submission, and the worker that runs it. */
interface Lifecycle {
  readonly submit: number;
  readonly work: number;
}

async function lifecycleMicros(server: BenchServer, executions: number, edges: number): Promise<Lifecycle> {
  await server.client.flushdb("SYNC");
  const before = await server.processorMicros();
  const flows: BenchFlow[] = [];
  for (let number = 0; number < executions / ROOTS; number += 1) {
    flows.push(await submit(server.valkey, star(edges, { roots: ROOTS })));
  }
  const submitted = await server.processorMicros();
  for (const flow of flows) {
    expectEqual("ended executions", (await endRoots(server.valkey, flow, "success")).length, ROOTS);
  }
  const worked = await server.processorMicros();
  return { submit: (submitted - before) / executions, work: (worked - submitted) / executions };
}

/** What a rate of completions needs. Every completion is also submitted and worked on the same shards. */
function rateRow(
  costs: Costs,
  { submit: submitMicros, work }: Lifecycle,
  bytes: number,
  rate: number,
  edges: number,
): Row {
  const dispatchLoad = (shards: number) =>
    (rate * microsOnShards(costs.server, LAMBDA.batchSize, edges, shards)) / 1_000_000;
  const restLoad = (rate * (submitMicros + work)) / 1_000_000;
  const [fewest] = PARTITION_COUNTS.flatMap((partitions) => {
    const shards = shardsFor((count) => dispatchLoad(count) + restLoad, partitions, MAX_LOAD);
    return shards === undefined ? [] : [{ partitions, shards }];
  }).toSorted((one, other) => one.shards - other.shards);
  if (fewest === undefined)
    throw new Error(`no number of shards is enough for ${rate} completions per second`);
  const { partitions, shards } = fewest;
  const idle = simulate(costs, { ...LAMBDA, shards: 1, partitions, dispatchers: 1, edges });
  const concurrency = Math.ceil(rate / idle.executionsPerSecond / (1 - MAX_LOAD / 2));
  return {
    what: `${rate} completions per second, ${edges} ${edges === 1 ? "edge" : "edges"}`,
    figures: {
      dispatch_processors: dispatchLoad(shards),
      submit_and_work_processors: restLoad,
      shards,
      partitions,
      skew: skewOf(shards, partitions),
      concurrency,
      messages_in_flight: concurrency * LAMBDA.batchSize,
      sqs_requests_per_second: rate * 0.3,
      network_mbit_per_second: (rate * bytes * 8) / 1_000_000,
      log_mb_per_second: (rate * LOG_BYTES) / 1_000_000,
    },
  };
}

export const capacity: Benchmark = {
  name: "capacity",
  measured:
    "costs of a batch, an execution and an edge (three runs of one dispatcher), then throughput of concurrent dispatchers " +
    `through a proxy with ${DELAY_MS} ms each way, beside what the simulation in bench/capacity-model.ts predicts from these ` +
    "costs; then its predictions for larger deployments (docs/scaling.md)",
  notShown: "several shards are only simulated; SQS and Lambda are assumed to have the next batch ready",
  async run(context) {
    const { quick, note } = context;
    const executions = quick ? 40 : EXECUTIONS;
    await using server = await BenchServer.start();
    note("costs");
    const single = await prepare(server, 1, executions);
    const alone = await measure(context, server, server.url, single, { dispatchers: 1, batchSize: 1 });
    const oneEdge = await measure(context, server, server.url, single, { dispatchers: 1, batchSize: 10 });
    const ten = await prepare(server, 10, executions);
    const tenEdges = await measure(context, server, server.url, ten, { dispatchers: 1, batchSize: 10 });
    const costs: Costs = {
      client: costFrom(alone.clientMicros, oneEdge.clientMicros, tenEdges.clientMicros),
      server: costFrom(alone.serverMicros, oneEdge.serverMicros, tenEdges.serverMicros),
    };
    const cases = [
      { edges: 1, bytes: oneEdge.networkBytes, lifecycle: await lifecycleMicros(server, executions, 1) },
      { edges: 10, bytes: tenEdges.networkBytes, lifecycle: await lifecycleMicros(server, executions, 10) },
    ];
    const rows: Row[] = [
      {
        what: "one dispatcher, batches of 10, microseconds",
        figures: {
          server_batch: costs.server.batch,
          server_execution: costs.server.execution,
          server_edge: costs.server.edge,
          client_batch: costs.client.batch,
          client_execution: costs.client.execution,
          client_edge: costs.client.edge,
        },
      },
      ...cases.map(({ edges, bytes, lifecycle }) => ({
        what: `one execution with ${edges} ${edges === 1 ? "edge" : "edges"}, microseconds and bytes`,
        figures: {
          submit_server: lifecycle.submit,
          work_server: lifecycle.work,
          dispatch_server: microsOnShards(costs.server, LAMBDA.batchSize, edges, 1),
          dispatch_network_bytes: bytes,
        },
      })),
    ];

    note("concurrent dispatchers");
    const three = await prepare(server, 3, executions);
    await using far = await startNetwork(server.url, DELAY_MS);
    const roundTripMs = await pingMs(context, far.url);
    for (const setup of quick
      ? [{ dispatchers: 4, batchSize: 10 }]
      : [
          { dispatchers: 1, batchSize: 10 },
          { dispatchers: 4, batchSize: 10 },
          { dispatchers: 8, batchSize: 10 },
          { dispatchers: 8, batchSize: 2 },
        ]) {
      const measured = await measure(context, server, far.url, three, setup);
      const predicted = simulate(costs, {
        ...setup,
        shards: 1,
        partitions: PARTITIONS,
        edges: 3,
        roundTripMs,
        idleMs: 0,
        clientSpeed: 1,
        hasSharedClient: true,
        hotShare: 0,
      });
      const error = Math.abs(predicted.executionsPerSecond / measured.executionsPerSecond - 1);
      rows.push({
        what: `${setup.dispatchers} dispatchers, batches of ${setup.batchSize}, 3 edges, executions per second`,
        figures: {
          measured: measured.executionsPerSecond,
          predicted: predicted.executionsPerSecond,
          error,
          ping_ms: roundTripMs,
        },
        goals: quick ? [] : [atMost("the prediction is at most 25 % off", error, MAX_ERROR)],
      });
    }

    note("larger deployments");
    for (const shards of quick ? [1, 2] : [1, 2, 4, 8, 16, 32]) {
      const dispatchers = shards * 60;
      const deployment = { ...LAMBDA, shards, partitions: PARTITIONS, dispatchers, edges: 1 };
      const spread = simulate(costs, deployment);
      const hot = simulate(costs, { ...deployment, hotShare: 1 });
      rows.push({
        what: `${shards} shards, ${dispatchers} concurrent invocations, 1 edge`,
        figures: {
          executions_per_second: spread.executionsPerSecond,
          batch_ms: spread.batchMs,
          busiest_shard: spread.busiestShard,
          mean_shard: spread.meanShard,
          skew: skewOf(shards, PARTITIONS),
          one_hot_flow_per_second: hot.executionsPerSecond,
        },
      });
    }
    for (const rate of quick ? [1_000] : [1_000, 100_000, 1_000_000]) {
      for (const { edges, bytes, lifecycle } of cases)
        rows.push(rateRow(costs, lifecycle, bytes, rate, edges));
    }
    return rows;
  },
};
