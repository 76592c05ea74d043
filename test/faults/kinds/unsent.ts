/** The message of a completion is never sent: the reconciler finds it in one sweep after the grace period. */

import { type FaultKind, runToEnd, UnsuitableCaseError } from "#test/faults/case.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { expectationsOf, randomGraph } from "#test/faults/graph.ts";
import { RECONCILED, reconciler, sweepOnce } from "#test/faults/reconcile.ts";
import { Standalone } from "#test/faults/servers.ts";
import { TestBed } from "#test/faults/test-bed.ts";

export const unsent: FaultKind = {
  name: "unsent",
  cases: { full: 30, quick: 3 },
  startTestBed: async () => TestBed.start(await Standalone.start(), RECONCILED),
  run: async (context) => {
    const { bed, random } = context;
    const graph = randomGraph(random);
    const expected = expectationsOf(graph);
    // The function publishes the completions of skipped tasks, not a worker.
    const parents = graph.edges.flatMap(([up]) => (expected[up]?.state === "skipped" ? [] : [up]));
    let unsentId = "";
    let hasDropped = false;
    const flow = await FlowUnderTest.build(bed, random, graph, {
      completions: {
        // Drops one completion, like a worker that dies right after it ended the task.
        send: async (completions) => {
          const sent = completions.filter(({ executionId }) => executionId !== unsentId);
          hasDropped ||= sent.length < completions.length;
          const results = (await bed.completions.send(sent)).values();
          return completions.map((one) =>
            sent.includes(one) ? (results.next().value ?? { ok: true }) : { ok: true },
          );
        },
      },
    });
    unsentId = flow.keysOf(random.pick(parents)).id;
    await runToEnd(context, flow);
    if (!hasDropped) throw new UnsuitableCaseError("no completion was dropped");
    await using fn = reconciler(bed);
    await sweepOnce(bed, flow, fn);
    await runToEnd(context, flow);
    return flow.compareWithModel({ mayLeaveEdges: true });
  },
};
