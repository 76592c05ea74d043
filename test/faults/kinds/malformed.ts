/** 500 malformed messages among valid ones: each must be dead-lettered once, with its reason. */

import { type MessageAttributeValue, SendMessageBatchCommand } from "@aws-sdk/client-sqs";
import type { SQSRecord } from "aws-lambda";
import { type CaseContext, type FaultKind, runToEnd } from "#test/faults/case.ts";
import { join } from "#test/faults/findings.ts";
import { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { randomGraph } from "#test/faults/graph.ts";
import { type MalformedMessage, malformedMessages } from "#test/faults/malformed-messages.ts";
import { Standalone } from "#test/faults/servers.ts";
import { TestBed } from "#test/faults/test-bed.ts";

const COUNT = 500;
/** A batch holds 1 MiB, and a body up to 200 KB. */
const SENT_AT_ONCE = 4;
const MAX_IN_BATCH = 10;
const REASON = "malformed_message";

export const malformed: FaultKind = {
  name: "malformed",
  cases: { full: 3, quick: 1 },
  startTestBed: async () => TestBed.start(await Standalone.start()),
  run: async (context) => {
    const { bed, random } = context;
    const sent = random.shuffled(malformedMessages(random, COUNT));
    await sendAll(bed, sent);
    const bad: SQSRecord[] = [];
    for (
      let some = await bed.receive(MAX_IN_BATCH);
      some.length > 0;
      some = await bed.receive(MAX_IN_BATCH)
    ) {
      bad.push(...some);
    }
    if (bad.length !== COUNT) throw new Error(`the queue accepted ${bad.length} of ${COUNT} messages`);
    const flow = await FlowUnderTest.build(bed, random, randomGraph(random));
    const wronglyFailed: string[] = [];
    await runToEnd(context, flow, async (records) => {
      const malformedOnes = bad.splice(0, MAX_IN_BATCH - records.length);
      const { failed } = await bed.deliver(random.shuffled([...records, ...malformedOnes]));
      const failedValid = records.filter(({ messageId }) => failed.has(messageId));
      for (const { body } of failedValid)
        wronglyFailed.push(`a valid message failed in a batch with malformed ones: ${body}`);
    });
    while (bad.length > 0) await bed.deliver(bad.splice(0, MAX_IN_BATCH));
    await runToEnd(context, flow);
    const letters = await inspect(context, sent);
    return join([
      await flow.compareWithModel(),
      { lost: wronglyFailed, wronglySkipped: [], duplicated: [], inconsistent: [] },
      letters,
    ]);
  },
};

async function sendAll(bed: TestBed, messages: readonly MalformedMessage[]): Promise<void> {
  for (let start = 0; start < messages.length; start += SENT_AT_ONCE) {
    const batch = messages.slice(start, start + SENT_AT_ONCE);
    const { Failed: failed = [] } = await bed.sqs.send(
      new SendMessageBatchCommand({
        QueueUrl: bed.queue.queueUrl,
        Entries: batch.map((message, index) => ({
          Id: String(index),
          MessageBody: message.body,
          MessageAttributes: attributesOf(message, String(start + index)),
        })),
      }),
    );
    for (const { Id: id, Message: reason } of failed) {
      throw new Error(`the queue refused "${batch[Number(id)]?.kind}": ${reason}`);
    }
  }
}

function attributesOf(
  { depth, root }: MalformedMessage,
  number: string,
): Record<string, MessageAttributeValue> {
  return {
    number: { DataType: "String", StringValue: number },
    ...(depth === undefined ? {} : { depth: { DataType: depth.type, StringValue: depth.value } }),
    ...(root === undefined ? {} : { root: { DataType: "String", StringValue: root } }),
  };
}

/** Checks that the dead-letter queue has every message once, unchanged, with its reason. */
async function inspect({ bed }: CaseContext, sent: readonly MalformedMessage[]) {
  const lost: string[] = [];
  const duplicated: string[] = [];
  const found = new Map<string, number>();
  const url = bed.queue.deadLetterQueueUrl;
  for (
    let some = await bed.receive(MAX_IN_BATCH, url);
    some.length > 0;
    some = await bed.receive(MAX_IN_BATCH, url)
  ) {
    for (const { body, messageAttributes: attributes } of some) {
      const number = attributes.number?.stringValue ?? "";
      const message = sent[Number(number)];
      if (message?.body !== body)
        lost.push(`a dead letter has another body than was sent: ${body.slice(0, 80)}`);
      const { depth, error_code: code, error_message: text, failed_at: at } = attributes;
      const hasReason =
        code?.stringValue === REASON && (text?.stringValue ?? "") !== "" && isTime(at?.stringValue);
      if (!hasReason)
        lost.push(`"${message?.kind}" is dead-lettered without its reason: ${JSON.stringify(attributes)}`);
      if (depth?.stringValue !== message?.depth?.value)
        lost.push(`"${message?.kind}" is dead-lettered with another depth`);
      found.set(number, (found.get(number) ?? 0) + 1);
    }
  }
  for (const [number, { kind }] of sent.entries()) {
    const copies = found.get(String(number)) ?? 0;
    if (copies === 0) lost.push(`"${kind}" is not in the dead-letter queue`);
    if (copies > 1) duplicated.push(`"${kind}" is in the dead-letter queue ${copies} times`);
  }
  return { lost, wronglySkipped: [], duplicated, inconsistent: [] };
}

function isTime(text: string | undefined): boolean {
  return text !== undefined && !Number.isNaN(Date.parse(text));
}
