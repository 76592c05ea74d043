/**
 * The clocks of the workers, of dispatch and of the reconciler are off by five minutes, each in its own direction. Leases,
 * grants and delays follow Valkey's clock, so nothing may run out early or late. Workers are killed while they run.
 */

import { type CaseContext, type FaultKind, runToEnd } from "#test/faults/case.ts";
import { join } from "#test/faults/findings.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { wideGraph } from "#test/faults/graph.ts";
import { Lapses } from "#test/faults/leases.ts";
import { RECONCILED, recover } from "#test/faults/reconcile.ts";
import { impatientReconciler } from "#test/faults/reconcilers.ts";
import { Standalone } from "#test/faults/servers.ts";
import { TestBed } from "#test/faults/test-bed.ts";
import { clockOff, WorkerChild } from "#test/faults/worker-child.ts";

const FIVE_MINUTES_MS = 300_000;
const MAX_DEATHS = 3;
const LEASE_MS = 60_000;

export const clock: FaultKind = {
  name: "clock",
  cases: { full: 20, quick: 1 },
  startTestBed: async () =>
    TestBed.start(await Standalone.start(), {
      ...RECONCILED,
      environment: clockOff(FIVE_MINUTES_MS),
    }),
  run: async (context) => {
    const { bed, random } = context;
    // The functions are ahead. A worker is ahead or behind.
    const offsetMs = context.number % 2 === 0 ? FIVE_MINUTES_MS : -FIVE_MINUTES_MS;
    const lapses = new Lapses();
    await using workers = new Workers(context, offsetMs);
    const flow = await FlowUnderTest.build(bed, random, wideGraph(random), {
      round: (built) => workers.round(built, lapses),
    });
    await runToEnd(context, flow);
    await recover(context, flow, lapses);
    const findings = await flow.compareWithModel({ moreRuns: lapses.counts, mayLeaveEdges: true });
    return join([findings, { lost: [], wronglySkipped: [], duplicated: workers.early, inconsistent: [] }]);
  },
};

/** One worker process at a time. A killed one is replaced. */
class Workers implements AsyncDisposable {
  /** Leases that ended before their time. */
  readonly early: string[] = [];
  readonly #context: CaseContext;
  readonly #offsetMs: number;
  #child: WorkerChild | undefined;
  #deaths = 0;

  constructor(context: CaseContext, offsetMs: number) {
    this.#context = context;
    this.#offsetMs = offsetMs;
  }

  async round(flow: FlowUnderTest, lapses: Lapses): Promise<number> {
    const { bed, random } = this.#context;
    this.#child ??= await WorkerChild.start(bed, `worker-${this.#deaths}`, clockOff(this.#offsetMs));
    const dies = this.#deaths < MAX_DEATHS && random.chance(40);
    const result = await this.#pass(this.#child, flow, dies);
    if (result !== undefined) return result.statuses.length;
    this.#child = undefined;
    this.#deaths += 1;
    await this.#expectNoTakeover(flow, lapses);
    await lapses.lapse(bed, flow);
    return 1;
  }

  /** The dead worker's leases have time left, so neither the reconciler nor another worker may touch them. */
  async #expectNoTakeover(flow: FlowUnderTest, lapses: Lapses): Promise<void> {
    const { bed } = this.#context;
    const before = [...lapses.counts.values()].join();
    await impatientReconciler(bed).invoke({});
    await lapses.count(bed, flow);
    if ([...lapses.counts.values()].join() !== before) this.early.push("a lease was marked before its end");
  }

  async #pass(child: WorkerChild, flow: FlowUnderTest, dies: boolean) {
    const { random } = this.#context;
    const result = await child.pass({
      partitions: [flow.flowKeys.partition],
      lane: flow.lane,
      limit: random.between(1, 3),
      leaseTtlMs: LEASE_MS,
      taskMs: 0,
      lostPercent: 0,
      dies,
    });
    if (result?.error !== undefined) throw new Error(`a worker failed: ${result.error}`);
    return result;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#child?.[Symbol.asyncDispose]();
  }
}
