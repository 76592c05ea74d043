/** A client, or the server for all its clients, stands still for ten seconds in the middle of a dispatch. */

import { setTimeout as sleep } from "node:timers/promises";
import { type CaseContext, drive, driveThrough, type Kind } from "#test/faults/case.ts";
import { randomGraph } from "#test/faults/graph.ts";
import { overtake } from "#test/faults/overtake.ts";
import { Rig } from "#test/faults/rig.ts";
import { Standalone } from "#test/faults/servers.ts";
import { VALKEY_POINTS, WORKING_POINTS } from "#test/faults/steps.ts";
import { World } from "#test/faults/world.ts";

const PAUSE_MS = 10_000;

export const pause: Kind = {
  name: "pause",
  cases: { full: 9, quick: 3 },
  rig: async () => Rig.start(await Standalone.start()),
  run: async (context) => {
    const { rig, random } = context;
    const world = await World.build(rig, random, randomGraph(random));
    const modes = ["process", "WRITE", "ALL"] as const;
    const mode = modes[context.number % modes.length] ?? "process";
    if (mode === "process") await stopProcess(context, world);
    else {
      await driveThrough(context, world, {
        points: VALKEY_POINTS,
        times: 1,
        strike: async () => {
          await rig.valkey.call("client", "PAUSE", PAUSE_MS, mode);
          return "pass";
        },
      });
    }
    return world.judge();
  },
};

/** SIGSTOP for one process of the function, while another one brings the flow to its end. */
async function stopProcess(context: CaseContext, world: World): Promise<void> {
  const { rig } = context;
  await using second = rig.another();
  let isStopped = false;
  await drive(context, world, async (records) => {
    if (isStopped) {
      await rig.deliver(records);
      return;
    }
    const first = await overtake(context, records, WORKING_POINTS, second, () => {
      const { pid } = rig.fn;
      if (pid === undefined) throw new Error("the function has no process");
      process.kill(pid, "SIGSTOP");
      isStopped = true;
      return Promise.resolve();
    });
    if (first === undefined) return;
    const paused = sleep(PAUSE_MS);
    await drive(context, world, (others) => rig.deliver(others, second));
    await paused;
    const { pid } = rig.fn;
    if (pid !== undefined) process.kill(pid, "SIGCONT");
    await rig.settle(records, await first.end);
  });
  if (!isStopped) throw new Error("no delivery came to where its process was to stop");
}
