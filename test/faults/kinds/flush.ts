/** FUNCTION FLUSH at a step of a dispatch: the library is gone, and the function has to bring it back. */

import { driveThrough, type Kind } from "#test/faults/case.ts";
import { randomGraph } from "#test/faults/graph.ts";
import { Rig } from "#test/faults/rig.ts";
import { Standalone } from "#test/faults/servers.ts";
import { WORKING_POINTS } from "#test/faults/steps.ts";
import { World } from "#test/faults/world.ts";

export const flush: Kind = {
  name: "flush",
  cases: { full: 60, quick: 6 },
  rig: async () => Rig.start(await Standalone.start()),
  run: async (context) => {
    const { rig, random } = context;
    const world = await World.build(rig, random, randomGraph(random));
    await driveThrough(context, world, {
      points: WORKING_POINTS,
      times: 4,
      strike: async () => {
        await rig.valkey.call("function", "FLUSH", "SYNC");
        return "pass";
      },
      // The worker is not what is tested here, and needs it too.
      afterwards: () => rig.loadLibrary(),
    });
    return world.judge();
  },
};
