import { type Benchmark, expectEqual } from "#bench/benchmark.ts";
import { type BenchFlow, expectChildren, layered, submit } from "#bench/flows.ts";
import { timed } from "#bench/measure.ts";
import { atMost, type Row } from "#bench/report.ts";
import { BenchServer } from "#bench/server.ts";

const SIZES = [100, 1_000, 10_000];
const QUICK_SIZES = [100];
const SIZE_WITH_GOALS = 10_000;
const GOAL_MS = 10_000;
/** The result is the minimum of these rounds, which submit the same graph. */
const ROUNDS = 3;

export const submission: Benchmark = {
  name: "submit",
  measured: "submitting a layered graph in which every task but the first layer's has four upstreams",
  notShown: "parsing a workflow file, a network; the submission is not bundled and runs from its sources",
  async run({ quick, note }) {
    const rows: Row[] = [];
    let before: { readonly size: number; readonly ms: number } | undefined;
    for (const size of quick ? QUICK_SIZES : SIZES) {
      note(`${size} executions`);
      await using server = await BenchServer.start();
      const workflow = layered(size);
      let ms = Number.POSITIVE_INFINITY;
      for (let round = 0; round < (quick ? 1 : ROUNDS); round += 1) {
        await server.client.flushdb("SYNC");
        let flow: BenchFlow | undefined;
        const spent = await timed(async () => {
          flow = await submit(server.valkey, workflow);
        });
        if (flow === undefined) continue;
        await expectChildren(server.valkey, [flow], "blocked");
        expectEqual("edges", flow.plan.edgeCount, workflow.edges.length);
        ms = Math.min(ms, spent);
      }
      const goals = [];
      if (size === SIZE_WITH_GOALS)
        goals.push(atMost("10,000 executions with 40,000 edges in at most 10 s (ms)", ms, GOAL_MS));
      if (before !== undefined) {
        const growth = ms / size / (before.ms / before.size);
        goals.push(atMost(`linear: time for each at most 1.3 times that of ${before.size}`, growth, 1.3));
      }
      rows.push({
        what: `${size} executions`,
        figures: { ms, edges: workflow.edges.length, micros_per_edge: (ms * 1_000) / workflow.edges.length },
        goals,
      });
      before = { size, ms };
    }
    return rows;
  },
};
