/** Every message is delivered three times, in random order. */

import type { SQSRecord } from "aws-lambda";
import { type FaultKind, runToEnd } from "#test/faults/case.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { randomGraph } from "#test/faults/graph.ts";
import { Standalone } from "#test/faults/servers.ts";
import { TestBed } from "#test/faults/test-bed.ts";

const COPIES = 3;
const MAX_IN_BATCH = 10;

export const duplicates: FaultKind = {
  name: "duplicates",
  cases: { full: 100, quick: 10 },
  startTestBed: async () => TestBed.start(await Standalone.start()),
  run: async (context) => {
    const { bed, random } = context;
    const flow = await FlowUnderTest.build(bed, random, randomGraph(random));
    const pool: SQSRecord[] = [];
    const deliverSome = async (): Promise<void> => {
      const batch: SQSRecord[] = [];
      for (let left = random.between(1, MAX_IN_BATCH); left > 0 && pool.length > 0; left -= 1) {
        batch.push(...pool.splice(random.below(pool.length), 1));
      }
      const { failed } = await bed.invoke(batch);
      pool.push(...batch.filter(({ messageId }) => failed.has(messageId)));
      const waiting = new Set(pool.map(({ messageId }) => messageId));
      const processed = new Map(batch.map((record) => [record.messageId, record]));
      await bed.acknowledge([...processed.values()].filter(({ messageId }) => !waiting.has(messageId)));
    };
    do {
      await runToEnd(context, flow, async (records) => {
        for (let copy = 0; copy < COPIES; copy += 1) pool.push(...records);
        if (random.chance(60)) await deliverSome();
      });
      if (pool.length > 0) await deliverSome();
    } while (pool.length > 0 || (await bed.queue.counts(bed.queue.queueUrl)).visible > 0);
    await runToEnd(context, flow);
    return flow.compareWithModel();
  },
};
