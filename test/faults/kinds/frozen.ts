/**
 * Workers freeze at any step of their round, their leases run out, others take over, and the frozen ones go on. Their
 * reports must be refused, and nothing may be lost or done twice.
 */

import type { WorkedExecution } from "#sdk/worker/finish.ts";
import type { ExecutionHandler } from "#sdk/worker/worker.ts";
import { type CaseContext, type FaultKind, runToEnd, UnsuitableCaseError } from "#test/faults/case.ts";
import { join } from "#test/faults/findings.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { GatedWorker, type WorkerGate } from "#test/faults/gated-worker.ts";
import { wideGraph } from "#test/faults/graph.ts";
import { Lapses } from "#test/faults/leases.ts";
import { RECONCILED, recover } from "#test/faults/reconcile.ts";
import { Standalone } from "#test/faults/servers.ts";
import { TestBed } from "#test/faults/test-bed.ts";
import { WORKER_POINTS, type WorkerPoint, workerPointName } from "#test/faults/worker-steps.ts";

const MAX_FROZEN = 3;
/** An execution may be reclaimed five times. */
const MAX_LAPSES = 5;
const LIMIT = 4;
/** At these points, a worker holds the leases of all its executions and has reported none. */
const HOLDING: readonly string[] = [
  "after claim",
  "after reclaim",
  "before payload",
  "after payload",
  "before run",
  "after run",
  "before renew",
  "after renew",
  "before report",
];

const BEFORE_REPORT: WorkerPoint = { timing: "before", step: "report" };

function isHolding({ point }: Pick<FrozenWorker, "point">): boolean {
  return HOLDING.includes(`${point.timing} ${point.step}`);
}

interface FrozenWorker {
  readonly point: WorkerPoint;
  readonly working: Promise<WorkedExecution[]>;
  thaw(): void;
  hasLapsed: boolean;
}

export const frozen: FaultKind = {
  name: "frozen",
  cases: { full: 200, quick: 3 },
  startTestBed: async () => TestBed.start(await Standalone.start(), RECONCILED),
  run: async (context) => {
    const { bed, random } = context;
    const freezer = new Freezer(context);
    const flow = await FlowUnderTest.build(bed, random, wideGraph(random), {
      round: (built, run) => freezer.round(built, run),
    });
    await runToEnd(context, flow);
    while (await freezer.thawOne(flow)) await runToEnd(context, flow);
    await recover(context, flow, freezer.lapses);
    if (freezer.reports === 0) throw new UnsuitableCaseError("no worker went on after its lease had ended");
    const findings = await flow.compareWithModel({ moreRuns: freezer.lapses.counts, mayLeaveEdges: true });
    return join([findings, { lost: [], wronglySkipped: [], duplicated: freezer.accepted, inconsistent: [] }]);
  },
};

class Freezer {
  readonly lapses = new Lapses();
  /** Late reports that were not refused. */
  readonly accepted: string[] = [];
  /** Workers that went on after their leases had ended. */
  reports = 0;
  readonly #context: CaseContext;
  readonly #frozen: FrozenWorker[] = [];
  #rounds = 0;

  constructor(context: CaseContext) {
    this.#context = context;
  }

  async round(flow: FlowUnderTest, run: ExecutionHandler): Promise<number> {
    const { bed, random } = this.#context;
    if (random.chance(25) && (await this.thawOne(flow))) return 1;
    this.#rounds += 1;
    const mayFreeze =
      this.#frozen.length < MAX_FROZEN && Math.max(0, ...this.lapses.counts.values()) < MAX_LAPSES;
    // Every case needs a worker that reports after its lease has ended. The other points are drawn around it.
    const needsReport = this.reports === 0 && !this.#frozen.some(isHolding) && random.chance(50);
    const points = needsReport ? [BEFORE_REPORT] : [random.pick(WORKER_POINTS), random.pick(WORKER_POINTS)];
    const armed = mayFreeze ? points : [];
    const untilRenewed = armed.some(({ step }) => step === "renew");
    const freezing = freezingGate(armed);
    const name = `worker-${this.#rounds}`;
    const working = new GatedWorker(bed, name, freezing.gate).round(flow, run, {
      limit: random.between(1, LIMIT),
      untilRenewed,
    });
    const point = await Promise.race([working, freezing.frozenAt]);
    if (Array.isArray(point)) {
      await this.lapses.count(bed, flow);
      return point.length;
    }
    bed.note(`${name} froze ${workerPointName(point)}`);
    this.#frozen.push({ point, working, thaw: freezing.thaw, hasLapsed: false });
    if (needsReport || random.chance(70)) await this.#lapse(flow);
    return 1;
  }

  /** Lets a frozen worker finish its round. Returns whether there was one. */
  async thawOne(flow: FlowUnderTest): Promise<boolean> {
    const { bed, random } = this.#context;
    const [one] = this.#frozen.splice(random.below(this.#frozen.length), 1);
    if (one === undefined) return false;
    one.thaw();
    const worked = await one.working;
    const at = workerPointName(one.point);
    bed.note(`a worker that froze ${at} went on: ${worked.map(({ status }) => status).join() || "nothing"}`);
    await this.lapses.count(bed, flow);
    if (!one.hasLapsed || !isHolding(one)) return true;
    this.reports += 1;
    this.#context.onReached(`late report after a stop ${at}`);
    for (const { id, status } of worked) {
      if (status !== "lease_lost") this.accepted.push(`${id} was reported as ${status} without a lease`);
    }
    return true;
  }

  async #lapse(flow: FlowUnderTest): Promise<void> {
    await this.lapses.lapse(this.#context.bed, flow);
    for (const one of this.#frozen) one.hasLapsed = true;
  }
}

/** Freezes a worker at the first of some points that it reaches. */
function freezingGate(armed: readonly WorkerPoint[]): {
  gate: WorkerGate;
  frozenAt: Promise<WorkerPoint>;
  thaw: () => void;
} {
  const { promise: frozenAt, resolve } = Promise.withResolvers<WorkerPoint>();
  const { promise: thawed, resolve: thaw } = Promise.withResolvers<void>();
  let isFrozen = false;
  return {
    frozenAt,
    thaw,
    gate: {
      splits: (step) => armed.some((point) => point.step === step && point.timing === "during"),
      pass: ({ step, timing }) => {
        const point = armed.find((one) => one.step === step && one.timing === timing);
        if (point !== undefined && !isFrozen) {
          isFrozen = true;
          resolve(point);
        }
        return isFrozen ? thawed : Promise.resolve();
      },
    },
  };
}
