/** The dispatch process is killed at every point between the receipt and the acknowledgement of a message. */

import type { SQSRecord } from "aws-lambda";
import { Breakpoint } from "#test/faults/breakpoint.ts";
import { type CaseContext, type FaultKind, runToEnd, UnsuitableCaseError } from "#test/faults/case.ts";
import { type Findings, isClean, join } from "#test/faults/findings.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { randomGraph } from "#test/faults/graph.ts";
import { Standalone } from "#test/faults/servers.ts";
import { type InjectionPoint, nameOf, POINTS } from "#test/faults/steps.ts";
import { TestBed } from "#test/faults/test-bed.ts";

/** `received`: before the batch reaches a process. `answered`: after the answer, before the acknowledgement. */
type KillPoint = InjectionPoint | "received" | "answered";

const KILL_POINTS: readonly KillPoint[] = ["received", ...POINTS, "answered"];
const MAX_COPIES = 20;
/** Copies in which only a random half of the points is armed. In later copies a delivery dies at its first open point. */
const RANDOM_COPIES = 10;

export const kill: FaultKind = {
  name: "kill",
  cases: { full: 200, quick: 3 },
  startTestBed: async () => TestBed.start(await Standalone.start()),
  run: async (context) => {
    const graph = randomGraph(context.random);
    const open = new Set(context.random.shuffled(KILL_POINTS));
    const all: Findings[] = [];
    for (let copy = 0; open.size > 0 && copy < MAX_COPIES; copy += 1) {
      const flow = await FlowUnderTest.build(context.bed, context.random, graph);
      await killInEachDelivery(context, flow, open, copy < RANDOM_COPIES ? 50 : 100);
      const found = await flow.compareWithModel();
      if (!isClean(found)) context.bed.note(`points without a kill so far: ${namesOf(open)}`);
      all.push(found);
    }
    const findings = join(all);
    if (open.size > 0 && isClean(findings)) {
      throw new UnsuitableCaseError(`no delivery reached: ${namesOf(open)}`);
    }
    return findings;
  },
};

function killPointName(point: KillPoint): string {
  return typeof point === "string" ? point : nameOf(point);
}

function namesOf(points: ReadonlySet<KillPoint>): string {
  return [...points].map(killPointName).join(", ");
}

/** Kills the process once for each message, so that a message is published at most twice. */
async function killInEachDelivery(
  context: CaseContext,
  flow: FlowUnderTest,
  open: Set<KillPoint>,
  armedPercent: number,
): Promise<void> {
  const { bed, random } = context;
  const killed = new Set<string>();
  await runToEnd(context, flow, async (records) => {
    if (records.some(({ messageId }) => killed.has(messageId))) {
      await bed.deliver(records);
      return;
    }
    const points = [...open].filter(() => random.chance(armedPercent));
    const point = await killAtOneOf(bed, records, points);
    if (point === undefined) return;
    open.delete(point);
    context.onReached(killPointName(point));
    for (const { messageId } of records) killed.add(messageId);
  });
}

/** Returns where the process was killed; undefined if the delivery reached none of the points and was completed. */
async function killAtOneOf(
  bed: TestBed,
  records: readonly SQSRecord[],
  points: readonly KillPoint[],
): Promise<KillPoint | undefined> {
  const [first] = points;
  if (first === "received" || first === "answered") {
    if (first === "answered") await bed.invoke(records);
    await bed.fn.kill("SIGKILL");
    await bed.release(records);
    return first;
  }
  const inDispatch = points.filter((point) => typeof point === "object");
  // Only a new process reaches the points of the start step.
  if (inDispatch.some(({ step }) => step === "start")) await bed.fn.kill("SIGKILL");
  const breakpoint = new Breakpoint(inDispatch, async () => {
    await bed.fn.kill("SIGKILL");
    return "drop";
  });
  return (await bed.deliverWithBreakpoint(breakpoint, records)).hitAt;
}
