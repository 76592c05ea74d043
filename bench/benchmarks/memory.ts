import type { BenchContext, Benchmark } from "#bench/benchmark.ts";
import { invoke, startFunction } from "#bench/dispatching.ts";
import { type BenchFlow, endRoots, expectChildren, star, submit } from "#bench/flows.ts";
import { slope, timed } from "#bench/measure.ts";
import { memoryOf } from "#bench/memory-of.ts";
import { atMost, type Row } from "#bench/report.ts";
import { BenchServer } from "#bench/server.ts";
import { storedMemory } from "#bench/stored-memory.ts";
import type { Completion } from "#shared/contract/message.ts";

const FAN_OUT = 100_000;
const QUICK_FAN_OUT = 2_000;
const MAX_MB = 256;
const INVOCATIONS = 1_000;
const QUICK_INVOCATIONS = 20;
const BATCH = 10;
/**
 * Node sizes its heap by the machine's memory. With the function's 256 MB, the old generation would get half and the
 * young generation almost nothing.
 */
const HEAP = { NODE_OPTIONS: "--max-old-space-size=128 --max-semi-space-size=2" };
/** Tolerates the normal variation of the heap. A leak of 10 KB per invocation exceeds it. */
const MAX_GROWTH_MB = 5;

async function fanOut({ quick, note }: BenchContext): Promise<Row> {
  const children = quick ? QUICK_FAN_OUT : FAN_OUT;
  note(`a fan-out of ${children}`);
  await using server = await BenchServer.start();
  const flow = await submit(server.valkey, star(children));
  const completions = await endRoots(server.valkey, flow, "success");
  await using fn = startFunction({ name: "dispatch", valkeyUrl: server.url, environment: HEAP });
  const ms = await timed(() => invoke(fn, completions));
  const { peak } = await memoryOf(fn.pid);
  await expectChildren(server.valkey, [flow], "eligible");
  return {
    what: `a fan-out of ${children} in one invocation`,
    figures: { peak_mb: peak, seconds: ms / 1_000 },
    goals: quick ? [] : [atMost("at most 256 MB", peak, MAX_MB)],
  };
}

async function inARow({ quick, note }: BenchContext): Promise<Row> {
  const invocations = quick ? QUICK_INVOCATIONS : INVOCATIONS;
  note(`${invocations} invocations in a row`);
  await using server = await BenchServer.start();
  const flows: BenchFlow[] = [];
  const completions: Completion[] = [];
  for (let number = 0; number < BATCH; number += 1) {
    const flow = await submit(server.valkey, star(10));
    flows.push(flow);
    completions.push(...(await endRoots(server.valkey, flow, "success")));
  }
  const dataset = await server.save();
  await using fn = startFunction({ name: "dispatch", valkeyUrl: server.url, environment: HEAP });
  const resident: number[] = [];
  for (let number = 0; number < invocations; number += 1) {
    await server.restore(dataset);
    await invoke(fn, completions);
    resident.push((await memoryOf(fn.pid)).now);
  }
  await expectChildren(server.valkey, flows, "eligible");
  const half = resident.slice(invocations / 2);
  const growth = slope(half) * half.length;
  const { peak } = await memoryOf(fn.pid);
  return {
    what: `${invocations} invocations in a row`,
    figures: { peak_mb: peak, first_mb: resident[0] ?? 0, last_mb: resident.at(-1) ?? 0, growth_mb: growth },
    goals: quick
      ? []
      : [
          atMost("at most 256 MB", peak, MAX_MB),
          atMost(`no growth: at most ${MAX_GROWTH_MB} MB over the second half (MB)`, growth, MAX_GROWTH_MB),
        ],
  };
}

export const memory: Benchmark = {
  name: "memory",
  measured:
    "bytes in Valkey of a finished execution and of an edge, by MEMORY USAGE of all their keys and their share of the " +
    "indexes; resident memory of the built function's process: the peak for one very wide fan-out, and for 1,000 batches of " +
    "10 completions with 10 edges, with the slope of a straight line through the second half; the heap is limited as " +
    "Node would limit it on a machine of 256 MB",
  notShown:
    "payloads, results, policies and tags; Valkey's table of keys (8 bytes a key and more while it grows) and its " +
    "fragmentation; the memory of the Lambda runtime and of extensions",
  async run(context) {
    const stored = await storedMemory(context);
    if (process.platform !== "linux") {
      context.note("the function's memory is not measured: it needs /proc, which only Linux has");
      return stored;
    }
    return [...stored, await fanOut(context), await inARow(context)];
  },
};
