import type { BenchContext, Benchmark } from "#bench/benchmark.ts";
import { invoke, startFunction } from "#bench/dispatching.ts";
import { slope, timed } from "#bench/measure.ts";
import { memoryOf } from "#bench/memory-of.ts";
import { atMost, type Row } from "#bench/report.ts";
import { type BenchFlow, endRoots, expectChildren, star, submit } from "#bench/scenes.ts";
import { BenchServer } from "#bench/server.ts";
import type { Completion } from "#shared/contract/message.ts";

const FAN_OUT = 100_000;
const QUICK_FAN_OUT = 2_000;
const MOST_MB = 256;
const INVOCATIONS = 1_000;
const QUICK_INVOCATIONS = 20;
const BATCH = 10;
/**
 * Node sizes its heap by the machine's memory. Of 256 MB, which is what the function is deployed with, it would give
 * the old space half, and next to nothing to the young one.
 */
const HEAP = { NODE_OPTIONS: "--max-old-space-size=128 --max-semi-space-size=2" };
/** What a heap that breathes makes of a straight line; a leak of 10 KB an invocation is above it. */
const MOST_GROWTH_MB = 5;

async function fanOut({ quick, note }: BenchContext): Promise<Row> {
  const children = quick ? QUICK_FAN_OUT : FAN_OUT;
  note(`a fan-out of ${children}`);
  await using server = await BenchServer.start();
  const benchFlow = await submit(server.valkey, star(children));
  const completions = await endRoots(server.valkey, benchFlow, "success");
  await using fn = startFunction({ name: "dispatch", valkeyUrl: server.url, environment: HEAP });
  const ms = await timed(() => invoke(fn, completions));
  const { peak } = await memoryOf(fn.pid);
  await expectChildren(server.valkey, [benchFlow], "eligible");
  return {
    what: `a fan-out of ${children} in one invocation`,
    figures: { peak_mb: peak, seconds: ms / 1_000 },
    goals: quick ? [] : [atMost("at most 256 MB", peak, MOST_MB)],
  };
}

async function inARow({ quick, note }: BenchContext): Promise<Row> {
  const invocations = quick ? QUICK_INVOCATIONS : INVOCATIONS;
  note(`${invocations} invocations in a row`);
  await using server = await BenchServer.start();
  const scenes: BenchFlow[] = [];
  const completions: Completion[] = [];
  for (let number = 0; number < BATCH; number += 1) {
    const benchFlow = await submit(server.valkey, star(10));
    scenes.push(benchFlow);
    completions.push(...(await endRoots(server.valkey, benchFlow, "success")));
  }
  const kept = await server.keep();
  await using fn = startFunction({ name: "dispatch", valkeyUrl: server.url, environment: HEAP });
  const resident: number[] = [];
  for (let number = 0; number < invocations; number += 1) {
    await server.putBack(kept);
    await invoke(fn, completions);
    resident.push((await memoryOf(fn.pid)).now);
  }
  await expectChildren(server.valkey, scenes, "eligible");
  const half = resident.slice(invocations / 2);
  const growth = slope(half) * half.length;
  const { peak } = await memoryOf(fn.pid);
  return {
    what: `${invocations} invocations in a row`,
    figures: { peak_mb: peak, first_mb: resident[0] ?? 0, last_mb: resident.at(-1) ?? 0, growth_mb: growth },
    goals: quick
      ? []
      : [
          atMost("at most 256 MB", peak, MOST_MB),
          atMost(`no growth: at most ${MOST_GROWTH_MB} MB over the second half (MB)`, growth, MOST_GROWTH_MB),
        ],
  };
}

export const memory: Benchmark = {
  name: "memory",
  measured:
    "resident memory of the built function's process: the peak for one very wide fan-out, and for 1,000 batches of " +
    "10 completions with 10 edges, with the slope of a straight line through the second half; the heap is limited as " +
    "Node would limit it on a machine of 256 MB",
  notShown: "what Lambda's own runtime and its extensions take",
  async run(context) {
    if (process.platform !== "linux") {
      context.note("left out: only Linux tells what is needed");
      return [];
    }
    return [await fanOut(context), await inARow(context)];
  },
};
