/**
 * An edge that is staged and applied only after its upstream finished. While the upstream's message is there,
 * redelivery heals it; after that, the reconciler.
 */

import { parseEdgeId, unwrap } from "#shared/contract/ids.ts";
import { applyDependencyToChild, stageDependencyEdge } from "#shared/contract/submission.ts";
import type { ModelGraph } from "#test/dispatch/model.ts";
import { type CaseContext, drive, type Kind } from "#test/faults/case.ts";
import type { Random } from "#test/faults/random.ts";
import { RECONCILED, reconciler, sweepOnce } from "#test/faults/reconcile.ts";
import { Rig } from "#test/faults/rig.ts";
import { Standalone } from "#test/faults/servers.ts";
import { World } from "#test/faults/world.ts";

/** Task 0 is the late edge's upstream, task 2 its downstream, which waits for task 1 as well; more tasks follow. */
const LATE: readonly [number, number] = [0, 2];

export const lateEdge: Kind = {
  name: "late-edge",
  cases: { full: 60, quick: 6 },
  rig: async () => Rig.start(await Standalone.start(), RECONCILED),
  run: async (context) => {
    const { rig, random } = context;
    const world = await World.build(rig, random, graphOf(random), { late: [LATE], isInOrder: true });
    if ((await world.work(1)) !== 1) throw new Error("the upstream did not run");
    const isTooLate = context.number % 3 === 2;
    if (isTooLate) {
      rig.note("the edge comes after the message");
      await rig.deliver(await rig.receive(1));
      const edge = await stage(world, random);
      await edge.apply();
      await drive(context, world);
      await using fn = reconciler(rig);
      await sweepOnce(rig, world, fn);
    } else await arriveInPieces(context, world);
    await drive(context, world);
    return world.judge();
  },
};

/** The message finds the edge staged and not applied, and must come again; or finds it whole. */
async function arriveInPieces({ rig, random, number }: CaseContext, world: World): Promise<void> {
  const edge = await stage(world, random);
  if (number % 3 === 0) {
    rig.note("the message comes between staging and applying");
    const { failed } = await rig.deliver(await rig.receive(1));
    if (failed.size !== 1) throw new Error("the message was taken for done while its edge was not applied");
  }
  await edge.apply();
}

function graphOf(random: Random): ModelGraph {
  const more = random.between(1, 4);
  const edges: (readonly [number, number])[] = [LATE, [1, 2]];
  for (let task = 3; task < 3 + more; task += 1) edges.push([random.between(1, task - 1), task]);
  const outcomes: ModelGraph["outcomes"][number][] = [random.pick(["success", "failed"]), "success"];
  for (let task = 2; task < 3 + more; task += 1) outcomes.push(random.pick(["success", "success", "failed"]));
  return { outcomes, edges };
}

async function stage(world: World, random: Random): Promise<{ apply(): Promise<void> }> {
  const [up, down] = LATE.map((task) => world.keysOf(task));
  if (up === undefined || down === undefined) throw new Error("an edge has two ends");
  const edge = {
    id: unwrap(parseEdgeId(random.uuid())),
    upstream: up.id,
    downstream: down.id,
    dataPassingRef: "",
  };
  const now = Date.now();
  const revision = Number(await world.read("hget", world.flow.core, "graph_revision"));
  await world.call(stageDependencyEdge(world.flow, edge, revision, now));
  return {
    apply: async () => {
      await world.call(
        applyDependencyToChild(11, world.flow, down, world.index, world.lane, edge, revision + 1, now),
      );
    },
  };
}
