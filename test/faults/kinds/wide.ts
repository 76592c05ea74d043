/** An execution with 100,000 edges is dispatched over several deliveries: one has too little time for all. */

import { submitFlow } from "#sdk/submission/submit.ts";
import { workBatch } from "#sdk/worker/worker.ts";
import { command } from "#shared/contract/command.ts";
import { type FlowId, type Partition, parseFlowId, parseLaneId, unwrap } from "#shared/contract/ids.ts";

import { valueOrThrow } from "#shared/valkey/batches.ts";
import type { FaultKind } from "#test/faults/case.ts";
import type { Findings } from "#test/faults/findings.ts";
import { Standalone } from "#test/faults/servers.ts";
import { TestBed } from "#test/faults/test-bed.ts";

const EDGES = 100_000;
/** The function reserves a second of it for its answer. */
const FUNCTION_TIMEOUT_MS = 4_000;
const MEMORY_MB = 256;
const MAX_DELIVERIES = 60;
const LANE = unwrap(parseLaneId("default"));

export const wide: FaultKind = {
  name: "wide",
  cases: { full: 1, quick: 1 },
  startTestBed: async () =>
    TestBed.start(await Standalone.start(), {
      isDirect: true,
      functionTimeoutMs: FUNCTION_TIMEOUT_MS,
      environment: { NODE_OPTIONS: `--max-old-space-size=${MEMORY_MB}` },
    }),
  run: async ({ bed, random }) => {
    const flowId = unwrap(parseFlowId(random.uuid()));
    const { partition } = bed.router.flowKeys(flowId);
    await submitStar(bed, flowId);
    const taken = await workBatch(
      {
        valkey: bed.valkey,
        router: bed.router,
        completions: bed.completions,
        identity: { workerId: "w", instanceId: "w-1" },
      },
      { partition, lane: LANE },
      () => Promise.resolve({ outcome: "success", result: "" }),
      { limit: 1 },
    );
    if (taken.length !== 1) throw new Error("the upstream did not run");
    const deliveries = await deliverToTheEnd(bed);
    bed.note(`${deliveries} deliveries`);
    if (deliveries === 1) throw new Error("one delivery was enough, so the case shows nothing");
    return findings(bed, partition);
  },
};

async function submitStar(bed: TestBed, flowId: FlowId): Promise<void> {
  const task = (id: string) => ({ id, lane: LANE, priority: 0, payload: "" });
  const children = Array.from({ length: EDGES }, (_, child) => `c${child}`);
  const workflow = {
    name: "wide",
    tasks: [task("root"), ...children.map(task)],
    edges: children.map((to) => ({ from: "root", to, dataPassing: false })),
  };
  await submitFlow({ valkey: bed.valkey, router: bed.router, completions: bed.completions }, workflow, {
    flowId,
  });
}

/** Delivers the message until it is acknowledged. Returns the number of deliveries. */
async function deliverToTheEnd(bed: TestBed): Promise<number> {
  for (let deliveries = 1; deliveries <= MAX_DELIVERIES; deliveries += 1) {
    const records = await bed.receive(1);
    if (records.length === 0) return deliveries - 1;
    const { reason } = await bed.deliver(records);
    // The function stops before its timeout by itself. A timeout or running out of memory is noted.
    if (reason !== undefined) bed.note(`delivery ${deliveries}: ${reason}`);
  }
  return MAX_DELIVERIES;
}

async function findings(bed: TestBed, partition: Partition): Promise<Findings> {
  const { eligible, blockedDependencies, terminal } = bed.router.indexKeys(partition).lane(LANE);
  const counts = await bed.valkey.pipelined(
    [eligible, blockedDependencies, terminal].map((key) => command(partition, "zcard", key)),
  );
  const [ready, blocked, ended] = counts.map((count) => Number(valueOrThrow(count)));
  const lost =
    ready === EDGES && blocked === 0
      ? []
      : [`${ready} of ${EDGES} children are eligible, ${blocked} are blocked`];
  const wronglySkipped = ended === 1 ? [] : [`${ended} executions have ended, expected only the upstream`];
  return { lost, wronglySkipped, duplicated: [], inconsistent: [] };
}
