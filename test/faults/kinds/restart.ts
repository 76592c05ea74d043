/** Valkey dies at a step of a dispatch, and comes back with what it had written. */

import { driveThrough, type Kind } from "#test/faults/case.ts";
import { randomGraph } from "#test/faults/graph.ts";
import { Rig } from "#test/faults/rig.ts";
import { Standalone } from "#test/faults/servers.ts";
import { VALKEY_POINTS } from "#test/faults/steps.ts";
import { World } from "#test/faults/world.ts";

export const restart: Kind = {
  name: "restart",
  cases: { full: 40, quick: 4 },
  rig: async () => Rig.start(await Standalone.persistent()),
  run: async (context) => {
    const { rig, random } = context;
    const { servers } = rig;
    if (!(servers instanceof Standalone)) throw new TypeError("this kind restarts a single server");
    const world = await World.build(rig, random, randomGraph(random));
    await driveThrough(context, world, {
      points: VALKEY_POINTS,
      times: 3,
      strike: async () => {
        await servers.restart();
        return "drop";
      },
    });
    return world.judge();
  },
};
