/** A completion whose message was never sent: the reconciler finds it in one sweep after the grace. */

import { drive, type Kind } from "#test/faults/case.ts";
import { expectationsOf, randomGraph } from "#test/faults/graph.ts";
import { RECONCILED, reconciler, sweepOnce } from "#test/faults/reconcile.ts";
import { Rig } from "#test/faults/rig.ts";
import { Standalone } from "#test/faults/servers.ts";
import { World } from "#test/faults/world.ts";

export const unsent: Kind = {
  name: "unsent",
  cases: { full: 30, quick: 3 },
  rig: async () => Rig.start(await Standalone.start(), RECONCILED),
  run: async (context) => {
    const { rig, random } = context;
    const graph = randomGraph(random);
    const expected = expectationsOf(graph);
    // A skipped task's completion is the function's to send, not a worker's.
    const parents = graph.edges.flatMap(([up]) => (expected[up]?.state === "skipped" ? [] : [up]));
    let unsentId = "";
    let hasDropped = false;
    const world = await World.build(rig, random, graph, {
      completions: {
        // One completion is taken and not sent, as by a worker that dies right after its work's end.
        send: async (completions) => {
          const sent = completions.filter(({ executionId }) => executionId !== unsentId);
          hasDropped ||= sent.length < completions.length;
          const results = (await rig.completions.send(sent)).values();
          return completions.map((one) =>
            sent.includes(one) ? (results.next().value ?? { ok: true }) : { ok: true },
          );
        },
      },
    });
    unsentId = world.keysOf(random.pick(parents)).id;
    await drive(context, world);
    if (!hasDropped) throw new Error("no completion was dropped");
    await using fn = reconciler(rig);
    await sweepOnce(rig, world, fn);
    await drive(context, world);
    return world.judge({ mayLeaveEdges: true });
  },
};
