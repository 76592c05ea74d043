import { randomUUID } from "node:crypto";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type BatchPorts, processBatch } from "#functions/dispatch/batch.ts";
import { isIdentified, readRecords } from "#functions/dispatch/event.ts";
import { readRequestType, readResponseTarget } from "#functions/provision/request.ts";
import { readPublished } from "#relay/published.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { isObject, parseCompletionEvent } from "#shared/contract/message.ts";
import { dispatch } from "#shared/dispatch/dispatcher.ts";
import { InvalidRequestError } from "#shared/errors.ts";
import { BatchSender } from "#shared/queue/batch-sender.ts";
import { parseRequest } from "#shared/redrive/request.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { dispatchSetup, family, RecordedTelemetry, stateOf } from "#test/support/dispatch.ts";
import type { FlowFixture } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

const GOOD = 9;
const FLOW = "550e8400-e29b-41d4-a716-446655440000";

/** A value as it should be, null, missing, or any other JSON value. */
function often<T>(valid: fc.Arbitrary<T>): fc.Arbitrary<unknown> {
  return fc.oneof(
    { weight: 4, arbitrary: valid },
    { weight: 2, arbitrary: fc.constantFrom(null, undefined, "", 0, true, {}, []) },
    { weight: 1, arbitrary: fc.jsonValue({ maxDepth: 2 }) },
  );
}

const attribute = fc.record({
  dataType: often(fc.constantFrom("String", "Number", "Binary", "Number.int", "Custom")),
  stringValue: often(fc.constantFrom("1", "51", "x", "\u0000", "\ud800", `{fp:24}:${FLOW}`)),
  binaryValue: often(fc.constant("AP8=")),
  stringListValues: often(fc.constant([])),
});
const attributes = fc.dictionary(
  fc.oneof(
    fc.constantFrom("depth", "root", "traceparent", "generation", "error_code", "AWS.x", "__proto__"),
    fc.string(),
  ),
  often(attribute),
  { maxKeys: 12 },
);
const body = fc.oneof(
  fc.constant(JSON.stringify({ execution_id: `{fp:24}:${FLOW}`, flow_id: FLOW })),
  fc.json({ maxDepth: 2 }),
  // The emulator, unlike SQS, refuses characters beyond U+FFFF.
  fc.string({ unit: "binary-ascii" }),
  fc.constantFrom("\ud800", "ż語"),
);
const systemAttributes = fc.record({
  ApproximateReceiveCount: often(fc.constant("1")),
  MessageGroupId: often(fc.constantFrom(FLOW, "ü")),
  AWSTraceHeader: often(fc.constant("Root=1-2-3")),
});
const sqsRecord = fc.record({
  messageId: often(fc.uuid()),
  receiptHandle: often(fc.constant("handle")),
  body: often(body),
  attributes: often(systemAttributes),
  messageAttributes: often(attributes),
  eventSource: often(fc.constant("aws:sqs")),
});
/** A record as Lambda passes it: parsed from JSON. */
const anyRecord = often(sqsRecord).map((value): unknown => JSON.parse(JSON.stringify([value]))[0]);

function goodRecord(id: string, flow: string): object {
  return {
    messageId: randomUUID(),
    receiptHandle: "handle",
    body: JSON.stringify({ execution_id: id, flow_id: flow, outcome: "success" }),
    attributes: { ApproximateReceiveCount: "1" },
    messageAttributes: {},
    eventSource: "aws:sqs",
  };
}

const [standalone] = DEPLOYMENTS;
if (standalone === undefined) throw new Error("there is no deployment");

describe("a batch of nine good records and one of any shape", () => {
  const setup = dispatchSetup(standalone);
  let fixture: FlowFixture;
  let parents: ExecKeys[];
  let children: ExecKeys[];

  beforeAll(async () => {
    fixture = setup.flow();
    parents = [];
    children = [];
    while (parents.length < GOOD) {
      const made = await family(fixture, 1);
      parents.push(made.parent);
      children.push(...made.children);
    }
    for (const parent of parents) await fixture.finish(parent, "success");
  });
  afterAll(async () => {
    expect(await Promise.all(children.map((child) => stateOf(fixture, child)))).toEqual(
      Array(GOOD).fill("waiting"),
    );
  });

  function portsOf(withDeadLetters: boolean): BatchPorts & { readonly telemetry: RecordedTelemetry } {
    const { queue } = setup.queue;
    return {
      dispatch: (events, deadlineMs) => dispatch({ ...setup.ports(), deadlineMs }, events),
      deadLetterQueue: withDeadLetters
        ? new BatchSender(setup.queue.client, queue.deadLetterQueueUrl)
        : undefined,
      maxCascadeDepth: 50,
      telemetry: Object.assign(new RecordedTelemetry(), { measure: () => undefined }),
      messageLogger: { info: () => undefined },
    };
  }

  async function process(withDeadLetters: boolean, record: unknown, position: number) {
    const records: unknown[] = parents.map(({ id }) => goodRecord(id, fixture.flow.id));
    records.splice(position, 0, record);
    const ports = portsOf(withDeadLetters);
    const answer = await processBatch(ports, readRecords({ Records: records }), Date.now() + 10_000);
    const dispatched = ports.telemetry.counts.get(METRICS.completionsDispatched);
    return {
      retried: answer.batchItemFailures.map(({ itemIdentifier }) => itemIdentifier),
      dispatched,
      ports,
    };
  }

  it.each([true, false])(
    "acknowledges the nine, whatever the one is (dead-letter queue: %s)",
    async (withDeadLetters) => {
      const property = fc.asyncProperty(anyRecord, fc.nat({ max: GOOD }), async (record, position) => {
        const { retried, dispatched, ports } = await process(withDeadLetters, record, position);
        expect(dispatched).toBeGreaterThanOrEqual(GOOD);
        const isReadable = isIdentified(record) && parseCompletionEvent(record).ok;
        // Without a dead-letter queue the redrive policy keeps a malformed message: it is retried until then.
        if (!isReadable && isIdentified(record) && !withDeadLetters)
          expect(retried).toEqual([record.messageId]);
        else expect(retried.filter((id) => !(isIdentified(record) && id === record.messageId))).toEqual([]);
        if (!isReadable && withDeadLetters) {
          // Dead-lettered; refused only where its own attributes leave no room for the reason.
          const hasRoom = !isObject(record) || Object.keys(Object(record.messageAttributes)).length <= 7;
          if (hasRoom) expect(ports.telemetry.counts.get(METRICS.messagesDeadLettered)).toBe(1);
          if (hasRoom) expect(retried).toEqual([]);
        }
      });
      await fc.assert(property, { numRuns: 60 });
      await setup.queue.drain(setup.queue.queue.deadLetterQueueUrl);
    },
  );

  it.each([
    ["no messageAttributes", { messageId: "m", body: "{" }],
    ["null messageAttributes", { messageId: "m", body: "{", messageAttributes: null, attributes: null }],
    [
      "a null binaryValue",
      {
        messageId: "m",
        body: "{",
        messageAttributes: { depth: { dataType: "Number", stringValue: "7", binaryValue: null } },
      },
    ],
    ["a null attribute", { messageId: "m", body: "{", messageAttributes: { depth: null } }],
  ])("dead-letters a record with %s, as it is", async (_, record) => {
    expect(await process(true, record, 4)).toMatchObject({ retried: [], dispatched: GOOD });
    const [letter, ...more] = await setup.queue.drain(setup.queue.queue.deadLetterQueueUrl);
    expect(more).toEqual([]);
    expect(letter?.Body).toBe("{");
    expect(letter?.MessageAttributes?.error_code?.StringValue).toBe("malformed_message");
    expect(letter?.MessageAttributes?.depth?.StringValue).toBe(
      JSON.stringify(record).includes('"7"') ? "7" : undefined,
    );
  });

  it.each([[null], [5], [[]], [{}], [{ body: "{" }], [{ messageId: "", body: "{" }]])(
    "dead-letters %j, which the response cannot name, as JSON",
    async (record) => {
      expect(await process(true, record, 0)).toMatchObject({ retried: [], dispatched: GOOD });
      const [letter] = await setup.queue.drain(setup.queue.queue.deadLetterQueueUrl);
      expect(letter?.Body).toBe(isObject(record) && "body" in record ? "{" : JSON.stringify(record));
    },
  );

  it("measures no depth above the limit", async () => {
    const measured: number[] = [];
    const depths = ["999999999999999", "51", "50", "7"].map((stringValue) => ({
      ...goodRecord(fixture.newExecution().id, fixture.flow.id),
      messageAttributes: { depth: { dataType: "Number", stringValue } },
    }));
    const ports = {
      ...portsOf(false),
      dispatch: async () => [],
      telemetry: Object.assign(new RecordedTelemetry(), {
        measure: (_metric: string, value: number) => measured.push(value),
      }),
    };
    await processBatch(ports, depths, Date.now() + 1_000);
    await processBatch(ports, depths.slice(0, 2), Date.now() + 1_000);
    expect(measured).toEqual([50]);
  });
});

describe("readRecords", () => {
  const record = goodRecord(`{fp:24}:${FLOW}`, FLOW);

  it.each([
    ["an SQS event", { Records: [record, null] }, [record, null]],
    ["a list as EventBridge Pipes sends it", [record, 5], [record, 5]],
    ["an empty event", { Records: [] }, []],
    ["an empty list", [], []],
  ])("reads %s", (_, event, expected) => {
    expect(readRecords(event)).toEqual(expected);
  });

  it.each([
    [null, "it is null"],
    [undefined, "it is undefined"],
    ["text", "it is a string"],
    [5, "it is a number"],
    [{}, "it has no list of Records"],
    [{ Records: null }, "it has no list of Records"],
    [{ Records: {} }, "it has no list of Records"],
    [{ Records: [{ s3: {}, eventSource: "aws:s3" }] }, "none of its records has a messageId"],
    [[{ kinesis: {} }], "none of its records has a messageId"],
    [{ source: "aws.events", detail: {} }, "it has no list of Records"],
  ])("refuses %j", (event, reason) => {
    expect(() => readRecords(event)).toThrow(`the event is not an SQS event: ${reason}`);
  });
});

/** The parsers of other programs' input. Each returns or throws its documented error, and no other one, for any JSON. */
describe("input of any shape", () => {
  const anyJson = fc.oneof(
    often(
      fc.record({ execution_id: often(fc.constant(`{fp:24}:${FLOW}`)), flow_id: often(fc.constant(FLOW)) }),
    ),
    fc.jsonValue(),
  );

  it("the relay reads any text of the channel", () => {
    fc.assert(
      fc.property(
        fc.oneof(
          anyJson.map((value) => JSON.stringify(value) ?? ""),
          fc.string(),
        ),
        (text) => {
          expect(["completion", "skipped", "without_flow", "malformed"]).toContain(readPublished(text).kind);
        },
      ),
    );
  });

  const redriveEvent = fc.record({
    all: often(fc.boolean()),
    error_code: often(fc.constant("protocol_error")),
    flow: often(fc.constant(FLOW)),
    rate: often(fc.constant(1)),
    method: often(fc.constant("receive")),
    stop: often(fc.boolean()),
    continuation: often(
      fc.record({
        pass: often(fc.constant("receive")),
        totals: often(fc.constant({})),
        held: often(fc.constant([[null]])),
      }),
    ),
  });
  const provisionEvent = fc.record({
    RequestType: often(fc.constant("Create")),
    ResponseURL: often(fc.constant("https://host/")),
    StackId: often(fc.constant("stack")),
  });

  it.each([
    ["redrive", often(redriveEvent), parseRequest],
    ["provision", often(provisionEvent), readResponseTarget],
    ["provision, of the type,", often(provisionEvent), readRequestType],
    ["dispatch", often(fc.record({ Records: often(fc.array(anyRecord)) })), readRecords],
  ])("%s reads an event, or refuses it with the reason", (_, events: fc.Arbitrary<unknown>, read) => {
    fc.assert(
      fc.property(events, (event) => {
        try {
          read(event);
        } catch (error) {
          expect(error).toBeInstanceOf(InvalidRequestError);
        }
      }),
    );
  });
});
