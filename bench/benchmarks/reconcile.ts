import { type Benchmark, expectEqual } from "#bench/benchmark.ts";
import { taskRows } from "#bench/benchmarks/reconcile-tasks.ts";
import { startFunction } from "#bench/dispatching.ts";
import { type BenchFlow, expectChildren, star, submit } from "#bench/flows.ts";
import { median, timed } from "#bench/measure.ts";
import { atMost, type Row } from "#bench/report.ts";
import { BenchServer } from "#bench/server.ts";
import type { FunctionProcess } from "#local/function-process.ts";

const SIZES = [0, 1_000, 10_000, 100_000];
const QUICK_SIZES = [0, 500];
const SIZE_WITH_GOALS = 100_000;
const GOAL_MS = 10_000;
/** Blocked executions per flow: several flows spread over the partitions. */
const FLOW_SIZE = 1_000;
const ROUNDS = 5;

export const reconcile: Benchmark = {
  name: "reconcile",
  measured:
    "one sweep of the built function over executions that correctly wait for upstreams, in flows of up to 1,000 " +
    "spread over 256 partitions; the median of five in a warm process. Then one sweep of each task over due entries",
  notShown: "a network, a cluster, and stuck executions, which cost one more message each",
  async run({ quick, note }) {
    const rows: Row[] = [];
    let before: { readonly size: number; readonly ms: number } | undefined;
    for (const size of quick ? QUICK_SIZES : SIZES) {
      note(`${size} blocked executions`);
      await using server = await BenchServer.start();
      const flows: BenchFlow[] = [];
      for (let left = size; left > 0; left -= FLOW_SIZE) {
        flows.push(await submit(server.valkey, star(Math.min(left, FLOW_SIZE))));
      }
      await using fn = startFunction({ name: "reconcile", valkeyUrl: server.url });
      await sweep(fn, size);
      let invocations = 0;
      const sweeps: number[] = [];
      for (let round = 0; round < (quick ? 1 : ROUNDS); round += 1) {
        const spent = await timed(async () => {
          invocations = await sweep(fn, size);
        });
        sweeps.push(spent);
      }
      const ms = median(sweeps);
      await expectChildren(server.valkey, flows, "blocked");
      const goals = [];
      if (size === SIZE_WITH_GOALS) goals.push(atMost("100,000 in at most 10 s (ms)", ms, GOAL_MS));
      if (size === SIZE_WITH_GOALS && before !== undefined) {
        const growth = ms / size / (before.ms / before.size);
        goals.push(atMost(`linear: time for each at most 1.3 times that of ${before.size}`, growth, 1.3));
      }
      rows.push({ what: `${size} blocked executions`, figures: { ms, invocations }, goals });
      before = { size, ms };
    }
    return [...rows, ...(await taskRows(quick, note))];
  },
};

/** Invokes the function until the sweep is complete. Returns the number of invocations. */
async function sweep(fn: FunctionProcess, size: number): Promise<number> {
  let scanned = 0;
  for (let invocations = 1; ; invocations += 1) {
    const report = fieldsOf(await fn.invoke({}));
    scanned += Number(report.get("scanned"));
    expectEqual("completions repaired", report.get("repaired"), 0);
    if (report.get("state") === "out_of_time") continue;
    expectEqual("the sweep's end", report.get("state"), "complete");
    expectEqual("executions scanned", scanned, size);
    return invocations;
  }
}

function fieldsOf(report: unknown): Map<string, unknown> {
  return new Map(typeof report === "object" && report !== null ? Object.entries(report) : []);
}
