/** During a dispatch Valkey stops answering, but accepts connections. */

import { type FaultKind, runToEndWithFault } from "#test/faults/case.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { randomGraph } from "#test/faults/graph.ts";
import { Standalone } from "#test/faults/servers.ts";
import { VALKEY_POINTS } from "#test/faults/steps.ts";
import { TestBed } from "#test/faults/test-bed.ts";

export const silence: FaultKind = {
  name: "silence",
  cases: { full: 10, quick: 2 },
  startTestBed: async () => TestBed.start(await Standalone.start()),
  run: async (context) => {
    const { bed, random } = context;
    const flow = await FlowUnderTest.build(bed, random, randomGraph(random));
    await runToEndWithFault(context, flow, {
      points: VALKEY_POINTS,
      times: 1,
      inject: () => {
        for (const proxy of bed.proxies) proxy.isSilent = true;
        return Promise.resolve("pass");
      },
      afterwards: () => {
        for (const proxy of bed.proxies) {
          proxy.isSilent = false;
          proxy.cut();
        }
      },
    });
    return flow.compareWithModel();
  },
};
