/**
 * An execution is replayed while its completion is being dispatched: no child is skipped by a call that the server runs
 * after the replay.
 */

import { replayExecution } from "#shared/contract/graph.ts";
import { Breakpoint } from "#test/faults/breakpoint.ts";
import { type FaultKind, runToEnd, UnsuitableCaseError } from "#test/faults/case.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { Standalone } from "#test/faults/servers.ts";
import { type InjectionPoint, nameOf } from "#test/faults/steps.ts";
import { TestBed } from "#test/faults/test-bed.ts";

/** Between the reading of the record and the calls. */
const POINTS: readonly InjectionPoint[] = [
  { step: "records", timing: "after" },
  { step: "edges", timing: "before" },
  { step: "edges", timing: "after" },
  { step: "children", timing: "before" },
  { step: "children", timing: "after" },
  { step: "resolve", timing: "before" },
];
const ROOT = 0;

export const overtaken: FaultKind = {
  name: "overtaken",
  cases: { full: 60, quick: 6 },
  startTestBed: async () => TestBed.start(await Standalone.start()),
  run: async (context) => {
    const { bed, random, number, onReached } = context;
    const children = random.between(2, 6);
    const flow = await FlowUnderTest.build(bed, random, {
      outcomes: ["failed", ...Array.from({ length: children }, () => "success" as const)],
      edges: Array.from({ length: children }, (_, child) => [ROOT, child + 1] as const),
    });
    await flow.work(1);
    const records = await bed.receive(1);
    const point = POINTS[number % POINTS.length];
    if (point === undefined) throw new RangeError("no such point");
    const breakpoint = new Breakpoint([point], async () => {
      const root = flow.keysOf(ROOT);
      await flow.call(replayExecution(root, flow.index, flow.lane, [], Date.now()));
      return "pass";
    });
    bed.breakpoint = breakpoint;
    await bed.deliver(records);
    await breakpoint.settled();
    bed.breakpoint = undefined;
    if (breakpoint.hitAt === undefined) throw new UnsuitableCaseError(`no delivery reached ${nameOf(point)}`);
    onReached(nameOf(point));
    const skipped = (await flow.observe()).flatMap(({ state }, task) =>
      state === "skipped" ? [`task ${task} was skipped by a call after the replay`] : [],
    );
    flow.outcomes[ROOT] = "success";
    await runToEnd(context, flow);
    const found = await flow.compareWithModel({ moreRuns: new Map([[ROOT, 1]]) });
    return { ...found, wronglySkipped: [...found.wronglySkipped, ...skipped] };
  },
};
