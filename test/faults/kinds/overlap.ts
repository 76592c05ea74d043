/** Two overlapping invocations in one process, each with the messages of one flow and one message that must fail. */

import type { SQSRecord } from "aws-lambda";
import { Breakpoint } from "#test/faults/breakpoint.ts";
import { type CaseContext, type FaultKind, UnsuitableCaseError } from "#test/faults/case.ts";
import { type Findings, join } from "#test/faults/findings.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { randomGraph } from "#test/faults/graph.ts";
import { OverlappingFunction } from "#test/faults/overlapping-function.ts";
import { Standalone } from "#test/faults/servers.ts";
import { WORKING_POINTS } from "#test/faults/steps.ts";
import { TestBed } from "#test/faults/test-bed.ts";

const MAX_ROUNDS = 200;
/** More than two flows publish at once. */
const MAX_RECEIVED = 10;

export const overlap: FaultKind = {
  name: "overlap",
  cases: { full: 60, quick: 6 },
  startTestBed: async () => TestBed.start(await Standalone.start()),
  run: async (context) => {
    const { bed, random } = context;
    const flows: [FlowUnderTest, FlowUnderTest] = [
      await FlowUnderTest.build(bed, random, randomGraph(random)),
      await FlowUnderTest.build(bed, random, randomGraph(random)),
    ];
    await using fn = new OverlappingFunction(bed.environmentOf());
    const wrongAnswers: string[] = [];
    let overlaps = 0;
    for (let round = 0; round < MAX_ROUNDS; round += 1) {
      for (const flow of flows) await flow.work(random.between(1, 3));
      const records = await bed.receive(MAX_RECEIVED);
      if (records.length === 0 && (await flows[0].work(1)) + (await flows[1].work(1)) === 0) break;
      const [first, second] = flows.map(({ flowKeys }) =>
        records.filter(({ body }) => body.includes(flowKeys.id)),
      );
      if (first === undefined || second === undefined) throw new Error("there are two flows");
      if (first.length > 0 && second.length > 0) overlaps += 1;
      wrongAnswers.push(...(await deliverBoth(context, fn, [first, second], flows)));
    }
    if (overlaps === 0) throw new UnsuitableCaseError("no two invocations overlapped");
    const found: Findings[] = await Promise.all(
      flows.map((flow) => flow.compareWithModel({ maxCascades: Infinity })),
    );
    return join([...found, { lost: wrongAnswers, wronglySkipped: [], duplicated: [], inconsistent: [] }]);
  },
};

/** Starts the second invocation while the first is at an injection point. Returns every answer that names a wrong message. */
async function deliverBoth(
  { bed, random }: CaseContext,
  fn: OverlappingFunction,
  batches: readonly [readonly SQSRecord[], readonly SQSRecord[]],
  flows: readonly [FlowUnderTest, FlowUnderTest],
): Promise<string[]> {
  const [first, second] = batches.map((records, index) => [
    ...records,
    badRecord(flows[index], random.uuid()),
  ]);
  if (first === undefined || second === undefined) return [];
  const answered = Promise.withResolvers<unknown>();
  bed.breakpoint = new Breakpoint([random.pick(WORKING_POINTS)], () => {
    fn.invoke({ Records: second }).then(answered.resolve, answered.reject);
    return Promise.resolve("pass");
  });
  const answer = await fn.invoke({ Records: first });
  if (bed.breakpoint.hitAt === undefined)
    fn.invoke({ Records: second }).then(answered.resolve, answered.reject);
  bed.breakpoint = undefined;
  const other = await answered.promise;
  await bed.acknowledge([...first.slice(0, -1), ...second.slice(0, -1)]);
  return [[answer, first] as const, [other, second] as const].flatMap(([given, records]) => {
    const expected = JSON.stringify({ batchItemFailures: [{ itemIdentifier: records.at(-1)?.messageId }] });
    const found = JSON.stringify(given);
    return found === expected ? [] : [`an invocation answered ${found}, expected ${expected}`];
  });
}

/** A message for an execution without a record: it must be retried, and no other. */
function badRecord(flow: FlowUnderTest | undefined, uuid: string): SQSRecord {
  if (flow === undefined) throw new Error("there are two flows");
  const body = { execution_id: `{fp:${flow.flowKeys.partition}}:${uuid}`, flow_id: flow.flowKeys.id };
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
