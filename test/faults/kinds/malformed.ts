/** 500 messages that are no completion events, among sound ones: each ends in the dead-letter queue with its reason. */

import { type MessageAttributeValue, SendMessageBatchCommand } from "@aws-sdk/client-sqs";
import type { SQSRecord } from "aws-lambda";
import { type CaseContext, drive, type Kind } from "#test/faults/case.ts";
import { randomGraph } from "#test/faults/graph.ts";
import { join } from "#test/faults/judge.ts";
import { type MalformedMessage, malformedMessages } from "#test/faults/malformed-messages.ts";
import { Rig } from "#test/faults/rig.ts";
import { Standalone } from "#test/faults/servers.ts";
import { World } from "#test/faults/world.ts";

const COUNT = 500;
/** Bodies of 200 KB: few enough for a batch's 1 MiB. */
const SENT_AT_ONCE = 4;
const MOST_IN_BATCH = 10;
const REASON = "malformed_message";

export const malformed: Kind = {
  name: "malformed",
  cases: { full: 3, quick: 1 },
  rig: async () => Rig.start(await Standalone.start()),
  run: async (context) => {
    const { rig, random } = context;
    const sent = random.shuffled(malformedMessages(random, COUNT));
    await sendAll(rig, sent);
    const bad: SQSRecord[] = [];
    for (
      let some = await rig.receive(MOST_IN_BATCH);
      some.length > 0;
      some = await rig.receive(MOST_IN_BATCH)
    ) {
      bad.push(...some);
    }
    if (bad.length !== COUNT) throw new Error(`the queue took ${bad.length} of ${COUNT} messages`);
    const world = await World.build(rig, random, randomGraph(random));
    const harmed: string[] = [];
    await drive(context, world, async (records) => {
      const company = bad.splice(0, MOST_IN_BATCH - records.length);
      const { failed } = await rig.deliver(random.shuffled([...records, ...company]));
      const ill = records.filter(({ messageId }) => failed.has(messageId));
      for (const { body } of ill) harmed.push(`a sound message failed in bad company: ${body}`);
    });
    while (bad.length > 0) await rig.deliver(bad.splice(0, MOST_IN_BATCH));
    await drive(context, world);
    const letters = await inspect(context, sent);
    return join([await world.judge(), { lost: harmed, wronglySkipped: [], duplicated: [] }, letters]);
  },
};

async function sendAll(rig: Rig, messages: readonly MalformedMessage[]): Promise<void> {
  for (let start = 0; start < messages.length; start += SENT_AT_ONCE) {
    const batch = messages.slice(start, start + SENT_AT_ONCE);
    const { Failed: failed = [] } = await rig.sqs.send(
      new SendMessageBatchCommand({
        QueueUrl: rig.queue.queueUrl,
        Entries: batch.map((message, index) => ({
          Id: String(index),
          MessageBody: message.body,
          MessageAttributes: attributesOf(message, String(start + index)),
        })),
      }),
    );
    for (const { Id: id, Message: reason } of failed) {
      throw new Error(`the queue does not take "${batch[Number(id)]?.kind}": ${reason}`);
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

/** What the dead-letter queue has, against what it should have: every message once, unchanged, with its reason. */
async function inspect({ rig }: CaseContext, sent: readonly MalformedMessage[]) {
  const lost: string[] = [];
  const duplicated: string[] = [];
  const found = new Map<string, number>();
  const url = rig.queue.deadLetterQueueUrl;
  for (
    let some = await rig.receive(MOST_IN_BATCH, url);
    some.length > 0;
    some = await rig.receive(MOST_IN_BATCH, url)
  ) {
    for (const { body, messageAttributes: attributes } of some) {
      const number = attributes.number?.stringValue ?? "";
      const message = sent[Number(number)];
      if (message?.body !== body) lost.push(`a dead letter that nobody sent so: ${body.slice(0, 80)}`);
      const { depth, error_code: code, error_message: text, failed_at: at } = attributes;
      const isWhole =
        code?.stringValue === REASON && (text?.stringValue ?? "") !== "" && isTime(at?.stringValue);
      if (!isWhole) lost.push(`"${message?.kind}" came without its reason: ${JSON.stringify(attributes)}`);
      if (depth?.stringValue !== message?.depth?.value)
        lost.push(`"${message?.kind}" came with another depth`);
      found.set(number, (found.get(number) ?? 0) + 1);
    }
  }
  for (const [number, { kind }] of sent.entries()) {
    const copies = found.get(String(number)) ?? 0;
    if (copies === 0) lost.push(`"${kind}" is not in the dead-letter queue`);
    if (copies > 1) duplicated.push(`"${kind}" is in the dead-letter queue ${copies} times`);
  }
  return { lost, wronglySkipped: [], duplicated };
}

function isTime(text: string | undefined): boolean {
  return text !== undefined && !Number.isNaN(Date.parse(text));
}
