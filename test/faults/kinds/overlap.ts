/** Two invocations in one process at the same time, each with its own flow's messages and one that must fail. */

import type { SQSRecord } from "aws-lambda";
import type { CaseContext, Kind } from "#test/faults/case.ts";
import { randomGraph } from "#test/faults/graph.ts";
import { type Findings, join } from "#test/faults/judge.ts";
import { OverlappingFunction } from "#test/faults/overlapping-function.ts";
import { Rig } from "#test/faults/rig.ts";
import { Standalone } from "#test/faults/servers.ts";
import { WORKING_POINTS } from "#test/faults/steps.ts";
import { Trap } from "#test/faults/trap.ts";
import { World } from "#test/faults/world.ts";

const MOST_ROUNDS = 200;
/** More than two flows have to deliver at once. */
const MOST_RECEIVED = 10;

export const overlap: Kind = {
  name: "overlap",
  cases: { full: 60, quick: 6 },
  rig: async () => Rig.start(await Standalone.start()),
  run: async (context) => {
    const { rig, random } = context;
    const worlds: [World, World] = [
      await World.build(rig, random, randomGraph(random)),
      await World.build(rig, random, randomGraph(random)),
    ];
    await using fn = new OverlappingFunction(rig.environmentOf());
    const mixed: string[] = [];
    let overlaps = 0;
    for (let round = 0; round < MOST_ROUNDS; round += 1) {
      for (const world of worlds) await world.work(random.between(1, 3));
      const records = await rig.receive(MOST_RECEIVED);
      if (records.length === 0 && (await worlds[0].work(1)) + (await worlds[1].work(1)) === 0) break;
      const [mine, theirs] = worlds.map(({ flow }) => records.filter(({ body }) => body.includes(flow.id)));
      if (mine === undefined || theirs === undefined) throw new Error("there are two flows");
      if (mine.length > 0 && theirs.length > 0) overlaps += 1;
      mixed.push(...(await deliverBoth(context, fn, [mine, theirs], worlds)));
    }
    if (overlaps === 0) throw new Error("no two invocations overlapped");
    const found: Findings[] = await Promise.all(
      worlds.map((world) => world.judge({ mostCascades: Infinity })),
    );
    return join([...found, { lost: mixed, wronglySkipped: [], duplicated: [] }]);
  },
};

/** Begins the second invocation while the first is at a step of its work; what either says of the other's records. */
async function deliverBoth(
  { rig, random }: CaseContext,
  fn: OverlappingFunction,
  batches: readonly [readonly SQSRecord[], readonly SQSRecord[]],
  worlds: readonly [World, World],
): Promise<string[]> {
  const [mine, theirs] = batches.map((records, index) => [
    ...records,
    badRecord(worlds[index], random.uuid()),
  ]);
  if (mine === undefined || theirs === undefined) return [];
  const second = Promise.withResolvers<unknown>();
  rig.trap = new Trap([random.pick(WORKING_POINTS)], () => {
    fn.invoke({ Records: theirs }).then(second.resolve, second.reject);
    return Promise.resolve("pass");
  });
  const answer = await fn.invoke({ Records: mine });
  if (rig.trap.sprung === undefined) fn.invoke({ Records: theirs }).then(second.resolve, second.reject);
  rig.trap = undefined;
  const other = await second.promise;
  await rig.acknowledge([...mine.slice(0, -1), ...theirs.slice(0, -1)]);
  return [[answer, mine] as const, [other, theirs] as const].flatMap(([answered, records]) => {
    const expected = JSON.stringify({ batchItemFailures: [{ itemIdentifier: records.at(-1)?.messageId }] });
    const found = JSON.stringify(answered);
    return found === expected ? [] : [`an invocation answered ${found} and should have answered ${expected}`];
  });
}

/** A message for an execution that has no record: it must come again, and no other. */
function badRecord(world: World | undefined, uuid: string): SQSRecord {
  if (world === undefined) throw new Error("there are two flows");
  const body = { execution_id: `{fp:${world.flow.partition}}:${uuid}`, flow_id: world.flow.id };
  return {
    messageId: uuid,
    receiptHandle: "",
    body: JSON.stringify(body),
    attributes: {
      ApproximateReceiveCount: "1",
      SentTimestamp: "",
      SenderId: "",
      ApproximateFirstReceiveTimestamp: "",
    },
    messageAttributes: {},
    md5OfBody: "",
    eventSource: "aws:sqs",
    eventSourceARN: "arn:aws:sqs:us-east-1:000000000000:completions",
    awsRegion: "us-east-1",
  };
}
