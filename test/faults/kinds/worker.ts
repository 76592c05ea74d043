/** The worker is killed at every step between its search for an execution and the end of its round. */

import type { ExecutionHandler } from "#sdk/worker/worker.ts";
import { type CaseContext, type FaultKind, runToEnd, UnsuitableCaseError } from "#test/faults/case.ts";
import { type Findings, isClean, join } from "#test/faults/findings.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { GatedWorker, type WorkerGate } from "#test/faults/gated-worker.ts";
import { wideGraph } from "#test/faults/graph.ts";
import { Lapses } from "#test/faults/leases.ts";
import { RECONCILED, recover } from "#test/faults/reconcile.ts";
import { Standalone } from "#test/faults/servers.ts";
import { TestBed } from "#test/faults/test-bed.ts";
import { WORKER_POINTS, type WorkerPoint, workerPointName } from "#test/faults/worker-steps.ts";

const MAX_COPIES = 20;
/** Copies in which only a random half of the points is armed. */
const RANDOM_COPIES = 10;
/** An execution may be reclaimed five times, so it survives as many lost leases. */
const MAX_LAPSES = 5;
const LIMIT = 4;
const AFTER_CLAIM: WorkerPoint = { step: "claim", timing: "after" };

export const worker: FaultKind = {
  name: "worker",
  cases: { full: 60, quick: 1 },
  startTestBed: async () => TestBed.start(await Standalone.start(), RECONCILED),
  run: async (context) => {
    const graph = wideGraph(context.random);
    const open = new Set(context.random.shuffled(WORKER_POINTS));
    const all: Findings[] = [];
    for (let copy = 0; open.size > 0 && copy < MAX_COPIES; copy += 1) {
      const found = await killWorkers(context, graph, open, copy < RANDOM_COPIES ? 50 : 100);
      if (!isClean(found)) context.bed.note(`points without a kill so far: ${namesOf(open)}`);
      all.push(found);
    }
    const findings = join(all);
    if (open.size > 0 && isClean(findings)) {
      throw new UnsuitableCaseError(`no worker reached: ${namesOf(open)}`);
    }
    return findings;
  },
};

function namesOf(points: ReadonlySet<WorkerPoint>): string {
  return [...points].map(workerPointName).join(", ");
}

/** Runs one flow. Its workers die at open points, until an execution has lost five leases. */
async function killWorkers(
  context: CaseContext,
  graph: FlowUnderTest["graph"],
  open: Set<WorkerPoint>,
  armedPercent: number,
): Promise<Findings> {
  const { bed, random } = context;
  const lapses = new Lapses();
  let rounds = 0;
  const round = async (flow: FlowUnderTest, run: ExecutionHandler): Promise<number> => {
    rounds += 1;
    const mayDie = Math.max(0, ...lapses.counts.values()) < MAX_LAPSES;
    const points = [...open, ...(needsTakeover(open) ? [AFTER_CLAIM] : [])];
    const armed = mayDie ? points.filter(() => random.chance(armedPercent)) : [];
    const mortal = mortalGate(armed);
    const untilRenewed = armed.some(({ step }) => step === "renew") && random.chance(50);
    const working = new GatedWorker(bed, `worker-${rounds}`, mortal.gate).round(flow, run, {
      limit: LIMIT,
      untilRenewed,
    });
    const worked = await Promise.race([working, mortal.death]);
    // A short lease may have run out by itself.
    if (!Array.isArray(worked) || untilRenewed) await lapses.lapse(bed, flow);
    if (Array.isArray(worked)) return worked.length;
    for (const point of open) if (workerPointName(point) === workerPointName(worked)) open.delete(point);
    context.onReached(workerPointName(worked));
    bed.note(`worker-${rounds} died ${workerPointName(worked)}`);
    return 1;
  };
  const flow = await FlowUnderTest.build(bed, random, graph, { round });
  await runToEnd(context, flow);
  await recover(context, flow, lapses);
  return flow.compareWithModel({ moreRuns: lapses.counts, mayLeaveEdges: true });
}

/** Only a worker that finds another one's executions reaches some of the points. */
function needsTakeover(open: ReadonlySet<WorkerPoint>): boolean {
  return [...open].some(({ step }) => step.startsWith("reclaim"));
}

/** Kills a worker at the first of some points that it reaches. */
function mortalGate(armed: readonly WorkerPoint[]): { gate: WorkerGate; death: Promise<WorkerPoint> } {
  const { promise: death, resolve } = Promise.withResolvers<WorkerPoint>();
  let isDead = false;
  const never = new Promise<never>(() => undefined);
  return {
    death,
    gate: {
      splits: (step) => armed.some((point) => point.step === step && point.timing === "during"),
      pass: ({ step, timing }) => {
        const point = armed.find((one) => one.step === step && one.timing === timing);
        if (point !== undefined && !isDead) {
          isDead = true;
          resolve(point);
        }
        return isDead ? never : Promise.resolve();
      },
    },
  };
}
