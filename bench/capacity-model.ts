/**
 * A simulation of dispatch: how many completions per second a deployment can process, and which part limits it.
 *
 * Dispatchers work in a loop. Each takes a batch and makes four round trips. A round trip costs time of the dispatcher's
 * processor, the network, and the processor of every shard that serves one of the batch's flows. A shard serves one
 * request at a time, in the order of arrival. Queue and Lambda are assumed to have the next batch ready.
 */

import type { Partition } from "#shared/contract/ids.ts";
import { slotOf } from "#shared/contract/partitions.ts";

/** Microseconds of one processor: fixed for a batch, for each of its executions, and for each of their edges. */
export interface Cost {
  readonly batch: number;
  readonly execution: number;
  readonly edge: number;
}

export interface Costs {
  readonly client: Cost;
  readonly server: Cost;
}

export interface Deployment {
  readonly shards: number;
  readonly partitions: number;
  /** Concurrent invocations of dispatch. */
  readonly dispatchers: number;
  readonly batchSize: number;
  /** Edges per execution. */
  readonly edges: number;
  readonly roundTripMs: number;
  /** Between two batches of a dispatcher. */
  readonly idleMs: number;
  /** The part of the measured processor that a dispatcher has: 0.145 for a Lambda function with 256 MB. */
  readonly clientSpeed: number;
  /** All dispatchers share one processor, as in the benchmark. */
  readonly hasSharedClient: boolean;
  /** The share of the completions that belong to one flow, 0 to 1. */
  readonly hotShare: number;
}

export interface Prediction {
  readonly executionsPerSecond: number;
  readonly batchMs: number;
  /** The share of time in which the busiest shard works. */
  readonly busiestShard: number;
  readonly meanShard: number;
}

const ROUND_TRIPS = 4;
const SLOTS = 16_384;
/** Round trips 1 and 2 read the execution and its edges, 3 reads the children, 4 resolves. */
const EXECUTION_PARTS = [0.5, 0.5, 0, 0];
const EDGE_PARTS = [0, 0, 0.3, 0.7];
/** Batches per dispatcher that are simulated; the first fifth is a warm-up. */
const MAX_BATCHES = 20_000;
const MIN_BATCHES_EACH = 20;

/** The number of partitions that each shard serves, if the slots are distributed evenly. */
export function partitionsPerShard(shards: number, partitions: number): number[] {
  const counts = new Array<number>(shards).fill(0);
  for (let partition = 0; partition < partitions; partition += 1) {
    const shard = shardOf(partition, shards);
    counts[shard] = (counts[shard] ?? 0) + 1;
  }
  return counts;
}

/** The load of the busiest shard in multiples of the mean, for flows that are spread evenly over the partitions. */
export function skewOf(shards: number, partitions: number): number {
  return (Math.max(...partitionsPerShard(shards, partitions)) * shards) / partitions;
}

/** The fewest shards that keep the busiest one at or below `maxLoad`. `loadOn` is the total load, in processors. */
export function shardsFor(
  loadOn: (shards: number) => number,
  partitions: number,
  maxLoad: number,
): number | undefined {
  for (let shards = 1; shards <= partitions; shards += 1) {
    const meanLoad = loadOn(shards) / shards;
    if (meanLoad <= maxLoad && meanLoad * skewOf(shards, partitions) <= maxLoad) return shards;
  }
  return undefined;
}

/** Microseconds per execution, if batches are processed as a whole. */
export function microsOf({ batch, execution, edge }: Cost, batchSize: number, edges: number): number {
  return batch / batchSize + execution + edge * edges;
}

/** As `microsOf`, if the executions of a batch are spread over shards: each shard that a batch reaches has its own fixed cost. */
export function microsOnShards(cost: Cost, batchSize: number, edges: number, shards: number): number {
  const reached = shards * (1 - (1 - 1 / shards) ** batchSize);
  return microsOf({ ...cost, batch: cost.batch * reached }, batchSize, edges);
}

/** Runs the simulation. The same arguments give the same result. */
export function simulate({ client, server }: Costs, deployment: Deployment, seed = 1): Prediction {
  const { shards, partitions, dispatchers, batchSize, edges, hotShare } = deployment;
  const random = randomFrom(seed);
  const shardOfPartition = Array.from({ length: partitions }, (_, partition) => shardOf(partition, shards));
  const clientMicros = microsOf(client, batchSize, edges) * batchSize;
  const roundMs = clientMicros / ROUND_TRIPS / 1_000 / deployment.clientSpeed;
  const freeAt = new Array<number>(shards).fill(0);
  const busyMs = new Array<number>(shards).fill(0);
  let clientFreeAt = 0;
  const events = new EventQueue();
  const startBatch = (at: number): void => {
    const perShard = new Map<number, number>();
    for (let execution = 0; execution < batchSize; execution += 1) {
      const partition = random() < hotShare ? 0 : Math.floor(random() * partitions);
      const shard = shardOfPartition[partition] ?? 0;
      perShard.set(shard, (perShard.get(shard) ?? 0) + 1);
    }
    events.push({ at, startedAt: at, round: 0, isAtServer: false, perShard });
  };
  for (let dispatcher = 0; dispatcher < dispatchers; dispatcher += 1)
    startBatch((dispatcher * roundMs) / dispatchers);

  const total = Math.max(MAX_BATCHES / 10, dispatchers * MIN_BATCHES_EACH);
  const warmUp = Math.floor(total / 5);
  let completed = 0;
  let measuredFrom = 0;
  let batchMs = 0;
  let now = 0;
  while (completed < total) {
    const event = events.pop();
    if (event === undefined) break;
    now = event.at;
    if (!event.isAtServer) {
      const begin = deployment.hasSharedClient ? Math.max(now, clientFreeAt) : now;
      clientFreeAt = begin + roundMs;
      events.push({ ...event, at: begin + roundMs + deployment.roundTripMs / 2, isAtServer: true });
      continue;
    }
    let answeredAt = now;
    for (const [shard, executions] of event.perShard) {
      const micros =
        server.batch / ROUND_TRIPS +
        executions *
          (server.execution * (EXECUTION_PARTS[event.round] ?? 0) +
            server.edge * edges * (EDGE_PARTS[event.round] ?? 0));
      const end = Math.max(now, freeAt[shard] ?? 0) + micros / 1_000;
      freeAt[shard] = end;
      if (completed >= warmUp) busyMs[shard] = (busyMs[shard] ?? 0) + micros / 1_000;
      answeredAt = Math.max(answeredAt, end);
    }
    const at = answeredAt + deployment.roundTripMs / 2;
    if (event.round + 1 < ROUND_TRIPS) {
      events.push({ ...event, at, round: event.round + 1, isAtServer: false });
      continue;
    }
    completed += 1;
    if (completed === warmUp) measuredFrom = now;
    if (completed > warmUp) batchMs += at - event.startedAt;
    startBatch(at + deployment.idleMs);
  }
  const measuredMs = now - measuredFrom;
  const batches = completed - warmUp;
  return {
    executionsPerSecond: ((batches * batchSize) / measuredMs) * 1_000,
    batchMs: batchMs / batches,
    busiestShard: Math.max(...busyMs) / measuredMs,
    meanShard: busyMs.reduce((sum, ms) => sum + ms, 0) / shards / measuredMs,
  };
}

function shardOf(partition: number, shards: number): number {
  let slot = slots[partition];
  if (slot === undefined) {
    slot = slotOf(partition as Partition);
    slots[partition] = slot;
  }
  return Math.floor(((slot + 1) * shards - 1) / SLOTS);
}

/** By partition: the search for a number of shards needs them often. */
const slots: number[] = [];

interface Event {
  readonly at: number;
  readonly startedAt: number;
  /** 0 to 3. */
  readonly round: number;
  readonly isAtServer: boolean;
  /** Executions of the batch by shard. */
  readonly perShard: ReadonlyMap<number, number>;
}

/** Returns events in the order of their times: a binary heap. */
class EventQueue {
  readonly #heap: Event[] = [];

  push(event: Event): void {
    const heap = this.#heap;
    let at = heap.push(event) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = heap[parent];
      if (above === undefined || above.at <= event.at) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = event;
  }

  pop(): Event | undefined {
    const heap = this.#heap;
    const [first] = heap;
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return first;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      const left = heap[child];
      const right = heap[child + 1];
      if (left === undefined) break;
      if (right !== undefined && right.at < left.at) child += 1;
      const below = heap[child];
      if (below === undefined || below.at >= last.at) break;
      heap[at] = below;
      at = child;
    }
    heap[at] = last;
    return first;
  }
}

/** Pseudo-random numbers from 0 to 1 (mulberry32). */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}
