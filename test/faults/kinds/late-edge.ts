/**
 * An edge is staged and applied only after its upstream finished. Redelivery resolves it while the message of the
 * upstream is in the queue; after that, the reconciler does.
 */

import { parseEdgeId, unwrap } from "#shared/contract/ids.ts";
import { applyDependencyToChild, stageDependencyEdge } from "#shared/contract/submission.ts";
import type { ModelGraph } from "#test/dispatch/model.ts";
import { type CaseContext, type FaultKind, runToEnd } from "#test/faults/case.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import type { Random } from "#test/faults/random.ts";
import { RECONCILED, reconciler, sweepOnce } from "#test/faults/reconcile.ts";
import { Standalone } from "#test/faults/servers.ts";
import { TestBed } from "#test/faults/test-bed.ts";

/** The late edge. Its downstream, task 2, depends on task 1 too; more tasks follow. */
const LATE: readonly [number, number] = [0, 2];

export const lateEdge: FaultKind = {
  name: "late-edge",
  cases: { full: 60, quick: 6 },
  startTestBed: async () => TestBed.start(await Standalone.start(), RECONCILED),
  run: async (context) => {
    const { bed, random } = context;
    const flow = await FlowUnderTest.build(bed, random, graphOf(random), { late: [LATE], isInOrder: true });
    if ((await flow.work(1)) !== 1) throw new Error("the upstream did not run");
    const isTooLate = context.number % 3 === 2;
    if (isTooLate) {
      bed.note("the edge is applied after the message was processed");
      await bed.deliver(await bed.receive(1));
      const edge = await stage(flow, random);
      await edge.apply();
      await runToEnd(context, flow);
      await using fn = reconciler(bed);
      await sweepOnce(bed, flow, fn);
    } else await applyBeforeRedelivery(context, flow);
    await runToEnd(context, flow);
    return flow.compareWithModel();
  },
};

/** The message is delivered before the edge is applied, so it must fail and be retried; or after. */
async function applyBeforeRedelivery(
  { bed, random, number }: CaseContext,
  flow: FlowUnderTest,
): Promise<void> {
  const edge = await stage(flow, random);
  if (number % 3 === 0) {
    bed.note("the message is delivered between staging and applying");
    const { failed } = await bed.deliver(await bed.receive(1));
    if (failed.size !== 1) throw new Error("the message was acknowledged although its edge was not applied");
  }
  await edge.apply();
}

function graphOf(random: Random): ModelGraph {
  const more = random.between(1, 4);
  const edges: (readonly [number, number])[] = [LATE, [1, 2]];
  for (let task = 3; task < 3 + more; task += 1) edges.push([random.between(1, task - 1), task]);
  const outcomes: ModelGraph["outcomes"][number][] = [random.pick(["success", "failed"]), "success"];
  for (let task = 2; task < 3 + more; task += 1) outcomes.push(random.pick(["success", "success", "failed"]));
  return { outcomes, edges };
}

async function stage(flow: FlowUnderTest, random: Random): Promise<{ apply(): Promise<void> }> {
  const [up, down] = LATE.map((task) => flow.keysOf(task));
  if (up === undefined || down === undefined) throw new Error("an edge has two ends");
  const edge = {
    id: unwrap(parseEdgeId(random.uuid())),
    upstream: up.id,
    downstream: down.id,
    dataPassingRef: "",
  };
  const now = Date.now();
  const revision = Number(await flow.read("hget", flow.flowKeys.core, "graph_revision"));
  await flow.call(stageDependencyEdge(flow.flowKeys, edge, revision, now));
  return {
    apply: async () => {
      await flow.call(
        applyDependencyToChild(flow.flowKeys, down, flow.index, flow.lane, edge, revision + 1, now),
      );
    },
  };
}
