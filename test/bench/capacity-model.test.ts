import { describe, expect, it } from "vitest";
import {
  type Deployment,
  microsOf,
  microsOnShards,
  partitionsPerShard,
  shardsFor,
  simulate,
  skewOf,
} from "#bench/capacity-model.ts";

const COSTS = {
  client: { batch: 400, execution: 20, edge: 30 },
  server: { batch: 100, execution: 20, edge: 30 },
};
const ONE: Deployment = {
  shards: 1,
  partitions: 256,
  dispatchers: 1,
  batchSize: 10,
  edges: 1,
  roundTripMs: 5,
  idleMs: 0,
  clientSpeed: 1,
  hasSharedClient: false,
  hotShare: 0,
};

describe("the capacity model", () => {
  it("one dispatcher: a batch takes four round trips, the client's time and the server's time", () => {
    const batchMs = 4 * 5 + (400 + 10 * 50 + 100 + 10 * 50) / 1_000;
    const { batchMs: predicted, executionsPerSecond, busiestShard } = simulate(COSTS, ONE);
    expect(predicted).toBeCloseTo(batchMs, 6);
    expect(executionsPerSecond).toBeCloseTo(10_000 / batchMs, 0);
    expect(busiestShard).toBeCloseTo(0.6 / batchMs, 3);
  });

  it("concurrency scales linearly while the network dominates, and ends at the shard's processor", () => {
    const rateAt = (dispatchers: number) => simulate(COSTS, { ...ONE, dispatchers }).executionsPerSecond;
    expect(rateAt(8) / rateAt(1)).toBeCloseTo(8, 0);
    // 60 microseconds per execution: 16,667 per second, for any concurrency.
    expect(rateAt(200)).toBeGreaterThan(16_000);
    expect(rateAt(400)).toBeLessThanOrEqual(16_700);
  });

  it("a shared client is a limit as well, and a slow one takes longer", () => {
    const shared = simulate(COSTS, { ...ONE, dispatchers: 100, hasSharedClient: true });
    // 90 microseconds of the client per execution.
    expect(shared.executionsPerSecond).toBeGreaterThan(10_500);
    expect(shared.executionsPerSecond).toBeLessThanOrEqual(11_200);
    expect(simulate(COSTS, { ...ONE, clientSpeed: 0.145 }).batchMs).toBeCloseTo(20.6 + 0.9 / 0.145, 6);
  });

  it("more shards process more, except for one hot flow", () => {
    const saturated = { ...ONE, dispatchers: 400 };
    const rateOn = (shards: number, hotShare: number) =>
      simulate(COSTS, { ...saturated, shards, hotShare }).executionsPerSecond;
    expect(rateOn(4, 0)).toBeGreaterThan(2 * rateOn(1, 0));
    expect(rateOn(4, 1)).toBeCloseTo(rateOn(1, 1), -3);
    // The shard of the flow is the limit, and the others wait with its batches.
    expect(rateOn(4, 0.5)).toBeLessThan(0.7 * rateOn(4, 0));
  });

  it("every shard has some of the partitions; few partitions for many shards are uneven", () => {
    for (const shards of [1, 3, 16, 100]) {
      const counts = partitionsPerShard(shards, 256);
      expect(counts).toHaveLength(shards);
      expect(counts.reduce((sum, count) => sum + count, 0)).toBe(256);
    }
    expect(skewOf(1, 256)).toBe(1);
    expect(skewOf(100, 256)).toBeGreaterThan(1.5);
    expect(skewOf(100, 4_096)).toBeLessThan(skewOf(100, 256));
  });

  it("shardsFor: the fewest shards whose busiest one is below the limit; undefined if there are too few partitions", () => {
    const constant = (load: number) => () => load;
    expect(shardsFor(constant(0.5), 256, 0.6)).toBe(1);
    const shards = shardsFor(constant(5), 256, 0.6) ?? 0;
    expect((5 / shards) * skewOf(shards, 256)).toBeLessThanOrEqual(0.6);
    expect((5 / (shards - 1)) * skewOf(shards - 1, 256)).toBeGreaterThan(0.6);
    expect(shardsFor(constant(1_000), 256, 0.6)).toBeUndefined();
  });

  it("a batch that is spread over shards has its fixed cost on each of them", () => {
    expect(microsOnShards(COSTS.server, 10, 1, 1)).toBe(microsOf(COSTS.server, 10, 1));
    expect(microsOnShards(COSTS.server, 10, 1, 2)).toBeCloseTo(10 * 2 * (1 - 0.5 ** 10) + 50, 6);
  });

  it("is reproducible", () => {
    expect(simulate(COSTS, { ...ONE, shards: 4, dispatchers: 20 })).toEqual(
      simulate(COSTS, { ...ONE, shards: 4, dispatchers: 20 }),
    );
  });
});
