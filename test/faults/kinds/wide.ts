/** A record with 100,000 edges finishes, over several deliveries: none of them has the time for all. */

import { submitFlow } from "#sdk/submission/submit.ts";
import { workBatch } from "#sdk/worker/worker.ts";
import { command } from "#shared/contract/command.ts";
import { type FlowId, type Partition, parseFlowId, parseLaneId, unwrap } from "#shared/contract/ids.ts";

import { valueOrThrow } from "#shared/valkey/batches.ts";
import type { Kind } from "#test/faults/case.ts";
import type { Findings } from "#test/faults/judge.ts";
import { Rig } from "#test/faults/rig.ts";
import { Standalone } from "#test/faults/servers.ts";

const EDGES = 100_000;
/** A second of it is kept for the answer. */
const FUNCTION_TIMEOUT_MS = 4_000;
const MEMORY_MB = 256;
const MOST_DELIVERIES = 60;
const LANE = unwrap(parseLaneId("default"));

export const wide: Kind = {
  name: "wide",
  cases: { full: 1, quick: 1 },
  rig: async () =>
    Rig.start(await Standalone.start(), {
      isDirect: true,
      functionTimeoutMs: FUNCTION_TIMEOUT_MS,
      environment: { NODE_OPTIONS: `--max-old-space-size=${MEMORY_MB}` },
    }),
  run: async ({ rig, random }) => {
    const flowId = unwrap(parseFlowId(random.uuid()));
    const { partition } = rig.router.flowKeys(flowId);
    await submitStar(rig, flowId);
    const taken = await workBatch(
      {
        valkey: rig.valkey,
        router: rig.router,
        completions: rig.completions,
        identity: { workerId: "w", instanceId: "w-1" },
      },
      { partition, lane: LANE },
      () => Promise.resolve({ outcome: "success", result: "" }),
      { limit: 1 },
    );
    if (taken.length !== 1) throw new Error("the upstream did not run");
    const deliveries = await deliverToTheEnd(rig);
    rig.note(`${deliveries} deliveries`);
    if (deliveries === 1) throw new Error("one delivery did it all: nothing was shown");
    return findings(rig, partition);
  },
};

async function submitStar(rig: Rig, flowId: FlowId): Promise<void> {
  const task = (id: string) => ({ id, lane: LANE, priority: 0, payload: "" });
  const children = Array.from({ length: EDGES }, (_, child) => `c${child}`);
  const workflow = {
    name: "wide",
    tasks: [task("root"), ...children.map(task)],
    edges: children.map((to) => ({ from: "root", to, dataPassing: false })),
  };
  await submitFlow({ valkey: rig.valkey, router: rig.router, completions: rig.completions }, workflow, {
    flowId,
  });
}

/** Delivers the one message until it is done; how often. */
async function deliverToTheEnd(rig: Rig): Promise<number> {
  for (let deliveries = 1; deliveries <= MOST_DELIVERIES; deliveries += 1) {
    const records = await rig.receive(1);
    if (records.length === 0) return deliveries - 1;
    const { reason } = await rig.deliver(records);
    // Running out of time is the function's own decision; being ended for it, or for memory, is a fault.
    if (reason !== undefined) rig.note(`delivery ${deliveries}: ${reason}`);
  }
  return MOST_DELIVERIES;
}

async function findings(rig: Rig, partition: Partition): Promise<Findings> {
  const { eligible, blockedDependencies, terminal } = rig.router.indexKeys(partition).lane(LANE);
  const counts = await rig.valkey.pipelined(
    [eligible, blockedDependencies, terminal].map((key) => command(partition, "zcard", key)),
  );
  const [ready, blocked, ended] = counts.map((count) => Number(valueOrThrow(count)));
  const lost = ready === EDGES && blocked === 0 ? [] : [`${ready} of ${EDGES} are eligible, ${blocked} wait`];
  const wronglySkipped =
    ended === 1 ? [] : [`${ended} executions have ended, and only the upstream should have`];
  return { lost, wronglySkipped, duplicated: [] };
}
