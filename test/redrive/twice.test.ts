import type { SQSRecord } from "aws-lambda";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { recordOf } from "#local/event.ts";
import { parseCompletionEvent } from "#shared/contract/message.ts";
import { ProtocolError } from "#shared/errors.ts";
import { BatchSender } from "#shared/queue/batch-sender.ts";
import { sendToDeadLetterQueue } from "#shared/queue/dead-letters.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { DeadLetterBench } from "#test/support/dead-letters.ts";
import { dispatchAll, eventOf, family, portsOf, QueueProbe } from "#test/support/dispatch.ts";
import { FlowFixture } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

describe.each(DEPLOYMENTS)("replaying a completion that was already dispatched ($name)", ({ connect }) => {
  let valkey: Valkey;
  let bench: DeadLetterBench;
  let cascades: QueueProbe;
  beforeAll(async () => {
    valkey = connect();
    bench = await DeadLetterBench.start();
    cascades = await QueueProbe.start();
  });
  afterAll(async () => {
    valkey.close();
    await bench[Symbol.asyncDispose]();
    await cascades[Symbol.asyncDispose]();
  });

  const source = { queueArn: "arn", region: "us-east-1" };
  const deadLetter = (record: SQSRecord) =>
    sendToDeadLetterQueue(new BatchSender(bench.client, bench.queue.deadLetterQueueUrl), [
      { record, error: new ProtocolError("x"), failedAt: new Date() },
    ]);

  it.each(["success", "failed"] as const)(
    "changes nothing, the first time and the second (%s)",
    async (outcome) => {
      const fixture = new FlowFixture(valkey);
      const { parent } = await family(fixture, 3);
      await fixture.finish(parent, outcome);
      const body = JSON.stringify({ execution_id: parent.id, flow_id: fixture.flow.id, outcome });
      const first = recordOf({ Body: body }, source);
      const ports = portsOf(valkey, cascades);
      expect(await dispatchAll(ports, [eventOf(parent.id, fixture.flow.id)])).toEqual([[]]);
      expect(await cascades.drain()).toHaveLength(outcome === "failed" ? 3 : 0);
      const settled = await fixture.snapshot();
      expect(await deadLetter(first)).toEqual([{ ok: true }]);
      for (let replay = 1; replay <= 2; replay += 1) {
        expect(await bench.replay({ all: true })).toMatchObject({ replayed: 1 });
        const [message] = await bench.drain();
        if (message === undefined) throw new Error("nothing was replayed");
        expect(message.MessageAttributes?.replays?.StringValue).toBe(String(replay));
        const record = recordOf(message, source);
        const event = parseCompletionEvent(record);
        if (!event.ok) throw event.error;
        expect(await dispatchAll(ports, [event.value])).toEqual([[]]);
        expect(await fixture.snapshot()).toEqual(settled);
        expect(await cascades.drain()).toEqual([]);
        expect(await deadLetter(record)).toEqual([{ ok: true }]);
      }
      await bench.drain(bench.queue.deadLetterQueueUrl);
    },
  );
});
