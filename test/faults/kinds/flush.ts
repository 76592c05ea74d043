/** FUNCTION FLUSH during a dispatch removes the library; the function must load it again. */

import { type FaultKind, runToEndWithFault } from "#test/faults/case.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { randomGraph } from "#test/faults/graph.ts";
import { Standalone } from "#test/faults/servers.ts";
import { WORKING_POINTS } from "#test/faults/steps.ts";
import { TestBed } from "#test/faults/test-bed.ts";

export const flush: FaultKind = {
  name: "flush",
  cases: { full: 60, quick: 6 },
  startTestBed: async () => TestBed.start(await Standalone.start()),
  run: async (context) => {
    const { bed, random } = context;
    const flow = await FlowUnderTest.build(bed, random, randomGraph(random));
    await runToEndWithFault(context, flow, {
      points: WORKING_POINTS,
      times: 4,
      inject: async () => {
        await bed.valkey.call("function", "FLUSH", "SYNC");
        return "pass";
      },
      // The worker of the harness needs the library too.
      afterwards: () => bed.loadLibrary(),
    });
    return flow.compareWithModel();
  },
};
