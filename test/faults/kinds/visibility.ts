/** The visibility timeout expires during the first delivery: two processes handle the same messages. */

import { type FaultKind, runToEnd, UnsuitableCaseError } from "#test/faults/case.ts";
import { redeliverWhileHeld } from "#test/faults/concurrent-delivery.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { randomGraph } from "#test/faults/graph.ts";
import { Standalone } from "#test/faults/servers.ts";
import { WORKING_POINTS } from "#test/faults/steps.ts";
import { TestBed } from "#test/faults/test-bed.ts";

const TIMES = 3;

export const visibility: FaultKind = {
  name: "visibility",
  cases: { full: 60, quick: 6 },
  startTestBed: async () => TestBed.start(await Standalone.start()),
  run: async (context) => {
    const { bed, random } = context;
    const flow = await FlowUnderTest.build(bed, random, randomGraph(random));
    await using second = bed.startFunction();
    let redelivered = 0;
    await runToEnd(context, flow, async (records) => {
      if (redelivered === TIMES) {
        await bed.deliver(records);
        return;
      }
      const points = WORKING_POINTS.filter(() => random.chance(40));
      const first = await redeliverWhileHeld(context, records, points, second, (secondDone) => secondDone);
      if (first === undefined) return;
      redelivered += 1;
      // Its receipt handles are stale by now; the queue may accept or reject them.
      await bed.settle(records, await first.end);
    });
    if (redelivered === 0)
      throw new UnsuitableCaseError("no message was redelivered while its first delivery was held");
    return flow.compareWithModel();
  },
};
