/** Valkey is killed during a dispatch and restarts with its append-only file. */

import { type FaultKind, runToEndWithFault } from "#test/faults/case.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { randomGraph } from "#test/faults/graph.ts";
import { Standalone } from "#test/faults/servers.ts";
import { VALKEY_POINTS } from "#test/faults/steps.ts";
import { TestBed } from "#test/faults/test-bed.ts";

export const restart: FaultKind = {
  name: "restart",
  cases: { full: 40, quick: 4 },
  startTestBed: async () => TestBed.start(await Standalone.persistent()),
  run: async (context) => {
    const { bed, random } = context;
    const { servers } = bed;
    if (!(servers instanceof Standalone)) throw new TypeError("this kind restarts a single server");
    const flow = await FlowUnderTest.build(bed, random, randomGraph(random));
    await runToEndWithFault(context, flow, {
      points: VALKEY_POINTS,
      times: 3,
      inject: async () => {
        await servers.restart();
        return "drop";
      },
    });
    return flow.compareWithModel();
  },
};
