import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { processBatch } from "#functions/dispatch/batch.ts";
import type { Pipelines } from "#shared/contract/command.ts";
import { dispatch } from "#shared/dispatch/dispatcher.ts";
import { ProtocolError } from "#shared/errors.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import {
  dispatchOne,
  eventOf,
  family,
  portsOf,
  QueueProbe,
  RecordedTelemetry,
  stateOf,
} from "#test/support/dispatch.ts";
import { FlowFixture } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

const CHILDREN = 3;

describe.each(DEPLOYMENTS)("answers with too few results ($name)", ({ connect }) => {
  let valkey: Valkey;
  let queue: QueueProbe;

  beforeAll(async () => {
    valkey = connect();
    queue = await QueueProbe.start();
  });
  afterAll(async () => {
    valkey.close();
    await queue[Symbol.asyncDispose]();
  });

  async function failedFamily() {
    const fixture = new FlowFixture(valkey);
    const { parent, children } = await family(fixture, CHILDREN);
    await fixture.finish(parent, "failed");
    return { fixture, children, event: eventOf(parent.id, fixture.flow.id) };
  }

  const publishedIds = async (): Promise<string[]> =>
    (await queue.drainEvents()).map(({ executionId }) => executionId).sort();

  it("a publisher that answers for one child of three: the message fails, and a redelivery publishes the others", async () => {
    const { fixture, children, event } = await failedFamily();
    const short = portsOf(valkey, queue, {
      publisher: { send: async () => [{ ok: true }] },
    });
    expect(await dispatchOne(short, event)).toMatchObject([
      { name: "PublishError", retryable: true },
      { name: "PublishError", retryable: true },
    ]);
    expect(await Promise.all(children.map((child) => stateOf(fixture, child)))).toEqual(
      Array(CHILDREN).fill("skipped"),
    );
    expect(await dispatchOne(portsOf(valkey, queue), event)).toEqual([]);
    expect(await publishedIds()).toHaveLength(CHILDREN - 1);
  });

  // Round trips of a failed execution: record, edges, children, calls. The fifth marks what is already published.
  it.each([1, 2, 3, 4])(
    "a pipeline that answers too little in round trip %i: the message fails, and a redelivery finishes it",
    async (shortened) => {
      const { fixture, children, event } = await failedFamily();
      let round = 0;
      const short: Pipelines = {
        pipelined: async (commands) => {
          round += 1;
          const results = await valkey.pipelined(commands);
          // Two: the last command of round trip 4 only asks for pending groups.
          return round === shortened ? results.slice(0, -2) : results;
        },
      };
      const [result] = await dispatch(portsOf(valkey, queue, { valkey: short }), [event]);
      expect(result?.kind === "failed" && result.errors.every(({ retryable }) => retryable)).toBe(true);
      expect(await dispatchOne(portsOf(valkey, queue), event)).toEqual([]);
      expect(await Promise.all(children.map((child) => stateOf(fixture, child)))).toEqual(
        Array(CHILDREN).fill("skipped"),
      );
      // A child whose reply was lost is published by the redelivery; none is published twice.
      expect(await publishedIds()).toEqual(children.map(({ id }) => id).sort());
    },
  );

  it("depth, root and traceparent of a published child come from one message: the one with the lowest depth", async () => {
    const { fixture, event } = await failedFamily();
    const other = fixture.newExecution().id;
    const traceparent = `00-${"a".repeat(32)}-${"b".repeat(16)}-01`;
    await dispatch(portsOf(valkey, queue), [{ ...event, depth: 7, root: other, traceparent }, event]);
    const published = await queue.drainEvents();
    expect(published).toHaveLength(CHILDREN);
    for (const { depth, root, traceparent: passedOn } of published) {
      expect({ depth, root, passedOn }).toEqual({ depth: 1, root: event.executionId, passedOn: undefined });
    }
  });

  // Without a budget these never return: the test would time out.
  it.each([1, 2, 3, 4, 5])(
    "returns by the deadline when Valkey is silent from round trip %i on, and the next delivery finishes",
    async (silentFrom) => {
      const { fixture, children, event } = await failedFamily();
      let round = 0;
      const silent: Pipelines = {
        pipelined: (commands) => {
          round += 1;
          return round < silentFrom ? valkey.pipelined(commands) : new Promise(() => undefined);
        },
      };
      const ports = portsOf(valkey, queue, { valkey: silent, deadlineMs: Date.now() + 500 });
      const [result] = await dispatch(ports, [event]);
      // A silent fifth round trip only loses the marks: the cascade is published.
      expect(result?.kind).toBe(silentFrom === 5 ? "dispatched" : "failed");
      expect(await dispatchOne(portsOf(valkey, queue), event)).toEqual([]);
      expect(await Promise.all(children.map((child) => stateOf(fixture, child)))).toEqual(
        Array(CHILDREN).fill("skipped"),
      );
      expect(new Set(await publishedIds())).toEqual(new Set(children.map(({ id }) => id)));
    },
  );

  it("does not begin the first window when its round trips do not fit into the time left", async () => {
    const { fixture, children, event } = await failedFamily();
    let round = 0;
    let nowMs = 0;
    // By this clock, each reply takes 400 ms.
    const slow: Pipelines = {
      pipelined: async (commands) => {
        round += 1;
        nowMs += 400;
        return valkey.pipelined(commands);
      },
    };
    const ports = portsOf(valkey, queue, { valkey: slow, now: () => nowMs, deadlineMs: 1_500 });
    const [result] = await dispatch(ports, [event]);
    expect(result).toMatchObject({ kind: "failed", errors: [{ name: "OutOfTimeError", retryable: true }] });
    expect(round).toBe(1);
    expect(await Promise.all(children.map((child) => stateOf(fixture, child)))).toEqual(
      Array(CHILDREN).fill("waiting_children"),
    );
  });
});

describe("the answer to SQS", () => {
  const record = (id: string, body: string) => ({
    messageId: id,
    receiptHandle: id,
    body,
    attributes: {
      ApproximateReceiveCount: "1",
      SentTimestamp: "0",
      SenderId: "sender",
      ApproximateFirstReceiveTimestamp: "0",
    },
    messageAttributes: {},
    md5OfBody: "",
    eventSource: "aws:sqs",
    eventSourceARN: "arn",
    awsRegion: "us-east-1",
  });
  const COMPLETION = JSON.stringify({
    execution_id: "{fp:24}:550e8400-e29b-41d4-a716-446655440000",
    flow_id: "550e8400-e29b-41d4-a716-446655440000",
  });
  const telemetryOf = () => Object.assign(new RecordedTelemetry(), { measure: () => undefined });

  it("a dead-letter queue that returns no result: the message is retried, not lost", async () => {
    const telemetry = telemetryOf();
    const answer = await processBatch(
      {
        dispatch: async () => [],
        deadLetterQueue: { send: async () => [] },
        telemetry,
        maxCascadeDepth: 50,
        messageLogger: { info: () => undefined },
      },
      [record("malformed", "{")],
      Date.now() + 1_000,
    );
    expect(answer).toEqual({ batchItemFailures: [{ itemIdentifier: "malformed" }] });
    expect(telemetry.counts.get(METRICS.messagesDeadLettered)).toBeUndefined();
  });

  it("a dispatcher that returns no result for one of two messages: that one is retried", async () => {
    const answer = await processBatch(
      {
        dispatch: async () => [{ kind: "dispatched" }],
        deadLetterQueue: undefined,
        telemetry: telemetryOf(),
        maxCascadeDepth: 50,
        messageLogger: { info: () => undefined },
      },
      [record("first", COMPLETION), record("second", COMPLETION)],
      Date.now() + 1_000,
    );
    expect(answer).toEqual({ batchItemFailures: [{ itemIdentifier: "second" }] });
  });

  it("CompletionsDispatched counts dispatched messages only, not stopped or failed ones", async () => {
    const telemetry = telemetryOf();
    await processBatch(
      {
        dispatch: async () => [
          { kind: "dispatched" },
          { kind: "stopped", gate: "not_terminal" },
          { kind: "failed", errors: [new ProtocolError("no array")] },
        ],
        deadLetterQueue: { send: async (entries) => entries.map(() => ({ ok: true })) },
        telemetry,
        maxCascadeDepth: 50,
        messageLogger: { info: () => undefined },
      },
      ["one", "two", "three"].map((id) => record(id, COMPLETION)),
      Date.now() + 1_000,
    );
    expect(telemetry.counts.get(METRICS.completionsDispatched)).toBe(1);
    expect(telemetry.counts.get(METRICS.messagesDeadLettered)).toBe(1);
  });
});
