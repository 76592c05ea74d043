/** The dispatch process dies at every step between receiving and acknowledging. */

import type { SQSRecord } from "aws-lambda";
import { type CaseContext, drive, type Kind } from "#test/faults/case.ts";
import { randomGraph } from "#test/faults/graph.ts";
import { type Findings, isClean, join } from "#test/faults/judge.ts";
import { Rig } from "#test/faults/rig.ts";
import { Standalone } from "#test/faults/servers.ts";
import { nameOf, POINTS, type Point } from "#test/faults/steps.ts";
import { Trap } from "#test/faults/trap.ts";
import { World } from "#test/faults/world.ts";

/** Received and not handed to a process that lives; and answered, and not acknowledged. */
type KillPoint = Point | "received" | "answered";

const KILL_POINTS: readonly KillPoint[] = ["received", ...POINTS, "answered"];
/** Copies of a graph, each with as many deaths as it has messages, before the steps count as out of reach. */
const MOST_COPIES = 20;

export const kill: Kind = {
  name: "kill",
  cases: { full: 200, quick: 5 },
  rig: async () => Rig.start(await Standalone.start()),
  run: async (context) => {
    const graph = randomGraph(context.random);
    const open = new Set(context.random.shuffled(KILL_POINTS));
    const findings: Findings[] = [];
    for (let copy = 0; open.size > 0; copy += 1) {
      const names = [...open].map((point) => (typeof point === "string" ? point : nameOf(point)));
      if (copy === MOST_COPIES) throw new Error(`no delivery came to: ${names.join(", ")}`);
      const world = await World.build(context.rig, context.random, graph);
      await killThroughout(context, world, open);
      const found = await world.judge();
      if (!isClean(found)) context.rig.log.push(`killed: all but ${names.join(", ")}\n`);
      findings.push(found);
    }
    return join(findings);
  },
};

/** Each message is killed once, so that it is published once more at most. */
async function killThroughout(context: CaseContext, world: World, open: Set<KillPoint>): Promise<void> {
  const { rig, random } = context;
  const wounded = new Set<string>();
  await drive(context, world, async (records) => {
    if (records.some(({ messageId }) => wounded.has(messageId))) {
      await rig.deliver(records);
      return;
    }
    // Half of what is open: else every message would die early.
    const points = [...open].filter(() => random.chance(50));
    const point = await killAtOneOf(rig, records, points);
    if (point === undefined) return;
    open.delete(point);
    for (const { messageId } of records) wounded.add(messageId);
  });
}

/** Where the process was killed; undefined: the delivery came to none of the points, and is done. */
async function killAtOneOf(
  rig: Rig,
  records: readonly SQSRecord[],
  points: readonly KillPoint[],
): Promise<KillPoint | undefined> {
  const [first] = points;
  if (first === "received" || first === "answered") {
    if (first === "answered") await rig.invoke(records);
    await rig.fn.kill("SIGKILL");
    await rig.release(records);
    return first;
  }
  const amid = points.filter((point) => typeof point === "object");
  // Only a process that starts comes to the steps of a start.
  if (amid.some(({ step }) => step === "start")) await rig.fn.kill("SIGKILL");
  const trap = new Trap(amid, async () => {
    await rig.fn.kill("SIGKILL");
    return "drop";
  });
  return (await rig.deliverInto(trap, records)).sprung;
}
