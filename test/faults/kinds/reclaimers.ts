/**
 * Two workers reclaim the executions of a third one at the same time, while the third one reports. The seed decides whose
 * next call is sent, so that every order of their steps can occur.
 */

import { setImmediate } from "node:timers/promises";
import type { ExecutionHandler } from "#sdk/worker/worker.ts";
import { type CaseContext, type FaultKind, runToEnd, UnsuitableCaseError } from "#test/faults/case.ts";
import { join } from "#test/faults/findings.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { GatedWorker, type WorkerGate } from "#test/faults/gated-worker.ts";
import { wideGraph } from "#test/faults/graph.ts";
import { Lapses } from "#test/faults/leases.ts";
import type { Random } from "#test/faults/random.ts";
import { RECONCILED, recover } from "#test/faults/reconcile.ts";
import { Standalone } from "#test/faults/servers.ts";
import { TestBed } from "#test/faults/test-bed.ts";

const LIMIT = 4;

export const reclaimers: FaultKind = {
  name: "reclaimers",
  cases: { full: 200, quick: 3 },
  startTestBed: async () => TestBed.start(await Standalone.start(), RECONCILED),
  run: async (context) => {
    const { bed, random } = context;
    const lapses = new Lapses();
    const runs = new Set<string>();
    const repeated: string[] = [];
    const round = (flow: FlowUnderTest, run: ExecutionHandler): Promise<number> =>
      race(context, flow, lapses, (execution) => {
        const one = `attempt ${execution.attemptIndex} of ${execution.id}`;
        if (runs.has(one)) repeated.push(`${one} ran twice`);
        runs.add(one);
        return run(execution);
      });
    const flow = await FlowUnderTest.build(bed, random, wideGraph(random), { round });
    await runToEnd(context, flow);
    await recover(context, flow, lapses);
    if (lapses.counts.size === 0) throw new UnsuitableCaseError("no lease ended");
    const findings = await flow.compareWithModel({ moreRuns: lapses.counts, mayLeaveEdges: true });
    return join([findings, { lost: [], wronglySkipped: [], duplicated: repeated, inconsistent: [] }]);
  },
};

/** Returns how many executions the three workers worked on. */
async function race(
  { bed, random }: CaseContext,
  flow: FlowUnderTest,
  lapses: Lapses,
  run: ExecutionHandler,
): Promise<number> {
  const start = (name: string, actor: Actor) =>
    actor.start(new GatedWorker(bed, name, actor).round(flow, run, { limit: random.between(1, LIMIT) }));
  const holder = new Actor((step) => step === "report");
  start("holder", holder);
  await holder.stopped();
  if (holder.isWaiting && random.chance(75)) await lapses.lapse(bed, flow);
  const actors = [holder, new Actor(() => true), new Actor(() => true)];
  start("reclaimer-1", actors[1] ?? holder);
  start("reclaimer-2", actors[2] ?? holder);
  await interleave(random, actors);
  await lapses.count(bed, flow);
  return actors.reduce((sum, { worked }) => sum + worked, 0);
}

/** Lets one waiting actor after the other take its next step, until all have ended. */
async function interleave(random: Random, actors: readonly Actor[]): Promise<void> {
  for (;;) {
    for (const actor of actors) await actor.stopped();
    const waiting = actors.filter(({ isWaiting }) => isWaiting);
    if (waiting.length === 0) return;
    random.pick(waiting).step();
  }
}

/** A worker that waits for its turn before each step. */
class Actor implements WorkerGate {
  worked = 0;
  readonly #waitsAt: (step: string) => boolean;
  #hasEnded = false;
  #failure: unknown;
  #turn: PromiseWithResolvers<void> | undefined;
  #hasWaited = false;

  /** From the first step on that `waitsAt` accepts, it waits before every step. */
  constructor(waitsAt: (step: string) => boolean) {
    this.#waitsAt = waitsAt;
  }

  get isWaiting(): boolean {
    return this.#turn !== undefined;
  }

  start(working: Promise<readonly unknown[]>): void {
    working
      .then((worked) => {
        this.worked = worked.length;
      })
      .catch((error: unknown) => {
        this.#failure = error;
      })
      .finally(() => {
        this.#hasEnded = true;
      });
  }

  splits(): boolean {
    return true;
  }

  async pass({ step, timing }: Parameters<WorkerGate["pass"]>[0]): Promise<void> {
    this.#hasWaited ||= this.#waitsAt(step);
    // Several handlers of one batch run at the same time: only calls take turns.
    if (!this.#hasWaited || timing === "after" || step === "run") return;
    this.#turn = Promise.withResolvers();
    await this.#turn.promise;
  }

  /** Waits until it waits for its turn, or has ended. Throws its error. */
  async stopped(): Promise<void> {
    while (!this.isWaiting && !this.#hasEnded) await setImmediate();
    if (this.#failure !== undefined) throw this.#failure;
  }

  step(): void {
    this.#turn?.resolve();
    this.#turn = undefined;
  }
}
