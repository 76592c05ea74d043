/** Executions are replayed while old messages for them are still delivered. The record decides, not the message. */

import type { SQSRecord } from "aws-lambda";
import { replayExecution } from "#shared/contract/graph.ts";
import { parseEdgeId } from "#shared/contract/ids.ts";
import { type CaseContext, type FaultKind, runToEnd } from "#test/faults/case.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { expectationsOf, randomGraph } from "#test/faults/graph.ts";
import { Standalone } from "#test/faults/servers.ts";
import { TestBed } from "#test/faults/test-bed.ts";

export const replay: FaultKind = {
  name: "replay",
  cases: { full: 100, quick: 10 },
  startTestBed: async () => TestBed.start(await Standalone.start()),
  run: async (context) => {
    const { bed, random } = context;
    const flow = await FlowUnderTest.build(bed, random, randomGraph(random));
    const history: SQSRecord[] = [];
    await runToEnd(context, flow, async (records) => {
      history.push(...records);
      await bed.deliver(records);
    });
    const before = expectationsOf({ ...flow.graph, outcomes: flow.outcomes });
    const ended = [...before.keys()].filter((task) =>
      ["failed", "cancelled"].includes(before[task]?.state ?? ""),
    );
    const chosen = new Set(random.shuffled(ended).slice(0, random.between(1, ended.length)));
    const moreRuns = new Map<number, number>();
    // Upstreams first, as an operator must: a child of a skipped upstream is skipped again.
    for (const [task, { state, runs }] of before.entries()) {
      const isDownstream =
        state === "skipped" && flow.graph.edges.some(([up, down]) => down === task && chosen.has(up));
      if (!chosen.has(task) && !isDownstream) continue;
      if (!isDownstream) flow.outcomes[task] = "success";
      chosen.add(task);
      moreRuns.set(task, runs);
      await replayOne(flow, task);
      await redeliverSome(context, history);
    }
    // A replayed child waits for every failed upstream, and the messages of those not replayed are gone: resend them.
    for (const record of random.shuffled(history)) await bed.resend(record);
    await runToEnd(context, flow);
    const after = expectationsOf({ ...flow.graph, outcomes: flow.outcomes });
    const skipped = [...before, ...after].filter(({ state }) => state === "skipped").length;
    return flow.compareWithModel({ moreRuns, maxCascades: 2 * skipped });
  },
};

async function replayOne(flow: FlowUnderTest, task: number): Promise<void> {
  const keys = flow.keysOf(task);
  const incoming = await flow.read("smembers", flow.flowKeys.incoming(keys.id));
  const edges = (Array.isArray(incoming) ? incoming : []).flatMap((id: unknown) => {
    const edge = parseEdgeId(id);
    return edge.ok ? [edge.value] : [];
  });
  await flow.call(replayExecution(keys, flow.index, flow.lane, edges, Date.now()));
}

/** Redelivers some old messages. */
async function redeliverSome({ bed, random }: CaseContext, history: readonly SQSRecord[]): Promise<void> {
  for (const record of history) if (random.chance(30)) await bed.resend(record);
  for (let some = await bed.receive(4); some.length > 0; some = await bed.receive(4)) await bed.deliver(some);
}
