/** Every message comes three times, and all of them in any order. */

import type { SQSRecord } from "aws-lambda";
import { drive, type Kind } from "#test/faults/case.ts";
import { randomGraph } from "#test/faults/graph.ts";
import { Rig } from "#test/faults/rig.ts";
import { Standalone } from "#test/faults/servers.ts";
import { World } from "#test/faults/world.ts";

const COPIES = 3;
const MOST_IN_BATCH = 10;

export const duplicates: Kind = {
  name: "duplicates",
  cases: { full: 100, quick: 10 },
  rig: async () => Rig.start(await Standalone.start()),
  run: async (context) => {
    const { rig, random } = context;
    const world = await World.build(rig, random, randomGraph(random));
    const pool: SQSRecord[] = [];
    const deliverSome = async (): Promise<void> => {
      const batch: SQSRecord[] = [];
      for (let left = random.between(1, MOST_IN_BATCH); left > 0 && pool.length > 0; left -= 1) {
        batch.push(...pool.splice(random.below(pool.length), 1));
      }
      const { failed } = await rig.invoke(batch);
      pool.push(...batch.filter(({ messageId }) => failed.has(messageId)));
      const waiting = new Set(pool.map(({ messageId }) => messageId));
      const done = new Map(batch.map((record) => [record.messageId, record]));
      await rig.acknowledge([...done.values()].filter(({ messageId }) => !waiting.has(messageId)));
    };
    do {
      await drive(context, world, async (records) => {
        for (let copy = 0; copy < COPIES; copy += 1) pool.push(...records);
        if (random.chance(60)) await deliverSome();
      });
      if (pool.length > 0) await deliverSome();
    } while (pool.length > 0 || (await rig.queue.counts(rig.queue.queueUrl)).visible > 0);
    await drive(context, world);
    return world.judge();
  },
};
