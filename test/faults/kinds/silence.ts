/** From a step of a dispatch on, Valkey accepts connections and answers nothing. */

import { driveThrough, type Kind } from "#test/faults/case.ts";
import { randomGraph } from "#test/faults/graph.ts";
import { Rig } from "#test/faults/rig.ts";
import { Standalone } from "#test/faults/servers.ts";
import { VALKEY_POINTS } from "#test/faults/steps.ts";
import { World } from "#test/faults/world.ts";

export const silence: Kind = {
  name: "silence",
  cases: { full: 10, quick: 2 },
  rig: async () => Rig.start(await Standalone.start()),
  run: async (context) => {
    const { rig, random } = context;
    const world = await World.build(rig, random, randomGraph(random));
    await driveThrough(context, world, {
      points: VALKEY_POINTS,
      times: 1,
      strike: () => {
        for (const proxy of rig.proxies) proxy.isSilent = true;
        return Promise.resolve("pass");
      },
      afterwards: () => {
        for (const proxy of rig.proxies) {
          proxy.isSilent = false;
          proxy.cut();
        }
      },
    });
    return world.judge();
  },
};
