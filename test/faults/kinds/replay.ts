/** Executions are replayed while old messages for them still arrive: what was is not mistaken for what is. */

import type { SQSRecord } from "aws-lambda";
import { replayExecution } from "#shared/contract/graph.ts";
import { parseEdgeId } from "#shared/contract/ids.ts";
import { type CaseContext, drive, type Kind } from "#test/faults/case.ts";
import { expectationsOf, randomGraph } from "#test/faults/graph.ts";
import { Rig } from "#test/faults/rig.ts";
import { Standalone } from "#test/faults/servers.ts";
import { World } from "#test/faults/world.ts";

export const replay: Kind = {
  name: "replay",
  cases: { full: 100, quick: 10 },
  rig: async () => Rig.start(await Standalone.start()),
  run: async (context) => {
    const { rig, random } = context;
    const world = await World.build(rig, random, randomGraph(random));
    const history: SQSRecord[] = [];
    await drive(context, world, async (records) => {
      history.push(...records);
      await rig.deliver(records);
    });
    const before = expectationsOf({ ...world.graph, outcomes: world.outcomes });
    const ended = [...before.keys()].filter((task) =>
      ["failed", "cancelled"].includes(before[task]?.state ?? ""),
    );
    const chosen = new Set(random.shuffled(ended).slice(0, random.between(1, ended.length)));
    const moreRuns = new Map<number, number>();
    // Upstreams first, as an operator has to: a child that waits for a skipped upstream is skipped again.
    for (const [task, { state, runs }] of before.entries()) {
      const isBelow =
        state === "skipped" && world.graph.edges.some(([up, down]) => down === task && chosen.has(up));
      if (!chosen.has(task) && !isBelow) continue;
      if (!isBelow) world.outcomes[task] = "success";
      chosen.add(task);
      moreRuns.set(task, runs);
      await replayOne(world, task);
      await bringBack(context, history);
    }
    // A replayed child waits for all that failed it, and hears of those that were not replayed once more.
    for (const record of random.shuffled(history)) await rig.resend(record);
    await drive(context, world);
    const after = expectationsOf({ ...world.graph, outcomes: world.outcomes });
    const skipped = [...before, ...after].filter(({ state }) => state === "skipped").length;
    return world.judge({ moreRuns, mostCascades: 2 * skipped });
  },
};

async function replayOne(world: World, task: number): Promise<void> {
  const keys = world.keysOf(task);
  const incoming = await world.read("smembers", world.flow.incoming(keys.id));
  const edges = (Array.isArray(incoming) ? incoming : []).flatMap((id: unknown) => {
    const edge = parseEdgeId(id);
    return edge.ok ? [edge.value] : [];
  });
  await world.call(replayExecution(keys, world.index, world.lane, edges, Date.now()));
}

/** Some old messages arrive now. */
async function bringBack({ rig, random }: CaseContext, history: readonly SQSRecord[]): Promise<void> {
  for (const record of history) if (random.chance(30)) await rig.resend(record);
  for (let some = await rig.receive(4); some.length > 0; some = await rig.receive(4)) await rig.deliver(some);
}
