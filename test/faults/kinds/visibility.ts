/** Visibility runs out while the first delivery still works: two processes deal with the same messages. */

import { drive, type Kind } from "#test/faults/case.ts";
import { randomGraph } from "#test/faults/graph.ts";
import { overtake } from "#test/faults/overtake.ts";
import { Rig } from "#test/faults/rig.ts";
import { Standalone } from "#test/faults/servers.ts";
import { WORKING_POINTS } from "#test/faults/steps.ts";
import { World } from "#test/faults/world.ts";

const TIMES = 3;

export const visibility: Kind = {
  name: "visibility",
  cases: { full: 60, quick: 6 },
  rig: async () => Rig.start(await Standalone.start()),
  run: async (context) => {
    const { rig, random } = context;
    const world = await World.build(rig, random, randomGraph(random));
    await using second = rig.another();
    let overtaken = 0;
    await drive(context, world, async (records) => {
      if (overtaken === TIMES) {
        await rig.deliver(records);
        return;
      }
      const points = WORKING_POINTS.filter(() => random.chance(40));
      const first = await overtake(context, records, points, second, (secondDone) => secondDone);
      if (first === undefined) return;
      overtaken += 1;
      // Its receipts are of an earlier delivery; what the queue makes of them is the queue's business.
      await rig.settle(records, await first.end);
    });
    if (overtaken === 0) throw new Error("no delivery was overtaken");
    return world.judge();
  },
};
