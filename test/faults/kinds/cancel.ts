/** The caller of `cancelFlow` dies between any two of its steps. A second call, or the reconciler, completes the cancellation. */

import { cancelFlow } from "#sdk/cancellation/cancel-flow.ts";
import { type FaultKind, runToEnd, UnsuitableCaseError } from "#test/faults/case.ts";
import type { Findings } from "#test/faults/findings.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { wideGraph } from "#test/faults/graph.ts";
import { RECONCILED } from "#test/faults/reconcile.ts";
import { impatientReconciler } from "#test/faults/reconcilers.ts";
import { Standalone } from "#test/faults/servers.ts";
import { TestBed } from "#test/faults/test-bed.ts";
import { DEATHS, DyingValkey } from "#test/support/dying-valkey.ts";

/** The caller closes the flow, reads the records of the members, cancels them, and acknowledges them. */
const STEPS = ["close", "read", "cancel", "acknowledge"] as const;
const POINTS = STEPS.flatMap((step, at) => DEATHS.map((death) => ({ step, at, death })));
const MAX_ROUNDS = 3;

export const cancel: FaultKind = {
  name: "cancel",
  cases: { full: 80, quick: 8 },
  startTestBed: async () => TestBed.start(await Standalone.start(), RECONCILED),
  run: async (context) => {
    const { bed, random, number } = context;
    const point = POINTS[number % POINTS.length];
    if (point === undefined) throw new RangeError("there is no such point");
    const flow = await FlowUnderTest.build(bed, random, wideGraph(random));
    for (let round = random.below(MAX_ROUNDS); round > 0; round -= 1) await flow.work(random.between(1, 2));
    const options = { reason: "superseded", graceMs: 0 };
    const flowId = flow.flowKeys.id;
    const dying = new DyingValkey(bed.valkey, point.at, point.death);
    await cancelFlow({ valkey: dying, router: bed.router }, flowId, options).catch((error: unknown) => {
      if (!dying.hasDied) throw error;
    });
    if (!dying.hasDied) throw new UnsuitableCaseError(`the caller did not reach the step ${point.step}`);
    context.onReached(`${point.step}, ${point.death}`);
    const isClosed = (await flow.read("hget", flow.flowKeys.core, "public_flow_state")) === "cancelled";
    // Until its own cancellation, a member may still run.
    await flow.work(1);
    if (isClosed && random.chance(50)) await impatientReconciler(bed).invoke({});
    else await cancelFlow({ valkey: bed.valkey, router: bed.router }, flowId, options);
    await runToEnd(context, flow);
    return findingsOf(flow);
  },
};

async function findingsOf(flow: FlowUnderTest): Promise<Findings> {
  const states = await flow.observe();
  const lost = states.flatMap(({ state, indexes }, task) =>
    indexes.join() === "terminal"
      ? []
      : [`task ${task}: is ${state}, in ${indexes.join(", ") || "no index"}`],
  );
  const left = [
    ...((await flow.read("exists", flow.flowKeys.pendingCancels)) === 0 ? [] : ["members are still pending"]),
    ...((await flow.read("zscore", flow.index.cancelBacklog, flow.flowKeys.id)) === null
      ? []
      : ["the flow is still in cancel_backlog"]),
  ];
  return { lost: [...lost, ...left], wronglySkipped: [], duplicated: [], inconsistent: [] };
}
