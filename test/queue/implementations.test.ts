/** End-to-end tests on several implementations of SQS: built functions on the AWS runtime client, the local poller, a real Valkey. */

import { fileURLToPath } from "node:url";
import {
  DeleteMessageCommand,
  type Message,
  ReceiveMessageCommand,
  SendMessageCommand,
  type SQSClient,
} from "@aws-sdk/client-sqs";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import type { FlowStatus } from "#local/flow-status.ts";
import { FunctionProcess } from "#local/function-process.ts";
import { runWorkflow } from "#local/run.ts";
import { type Stack, startStack } from "#local/stack.ts";
import { parseWorkflow } from "#sdk/submission/parse.ts";
import { parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { family, stateOf } from "#test/support/dispatch.ts";
import { FlowFixture } from "#test/support/flow-fixture.ts";
import { QUEUE_IMPLEMENTATIONS } from "#test/support/queue-servers.ts";

const REDRIVE = fileURLToPath(new URL("../../dist/redrive/index.mjs", import.meta.url));
const EMPTY = { visible: 0, inFlight: 0, delayed: 0 };
const ROUTER = new PartitionRouter();
const WAIT = { timeout: 20_000, interval: 50 };
/** Longer than an invocation on a busy machine, and short enough to wait for it five times. */
const VISIBILITY_SECONDS = 2;
const MAX_RECEIVES = 5;

/** A failing task with 15 children, which is more than one batch of the queue, and two more levels below them. */
function cascade(): string {
  const middle = Array.from({ length: 15 }, (_, index) => ({ id: `m${index}`, dependsOn: ["top"] }));
  return JSON.stringify({
    name: "cascade",
    tasks: [
      { id: "top" },
      { id: "apart" },
      ...middle,
      { id: "bottom", dependsOn: ["apart", ...middle.map(({ id }) => id)] },
      { id: "end", dependsOn: ["bottom"] },
    ],
  });
}

describe.each(QUEUE_IMPLEMENTATIONS)("on $name", ({ start, replaysBy }) => {
  let stack: Stack;
  let client: SQSClient;
  const errors: string[] = [];

  beforeAll(async () => {
    stack = await startStack({
      router: ROUTER,
      maxCascadeDepth: 50,
      lanes: [unwrap(parseLaneId("default"))],
      onError: (error) => errors.push(error),
      visibilityTimeoutSeconds: VISIBILITY_SECONDS,
      queueServer: start,
      runtime: "aws",
    });
    client = stack.queue.client();
  }, 120_000);
  afterAll(async () => {
    client.destroy();
    await stack[Symbol.asyncDispose]();
  });

  const send = (body: string) =>
    client.send(new SendMessageCommand({ QueueUrl: stack.queue.queueUrl, MessageBody: body }));
  const completions = () => stack.queue.counts(stack.queue.queueUrl);
  const deadLetters = () => stack.queue.counts(stack.queue.deadLetterQueueUrl);

  /** Receives the dead letter with a visibility timeout of 0, so that it can be replayed at once. */
  async function peekDeadLetter(): Promise<Message | undefined> {
    const { Messages: messages } = await client.send(
      new ReceiveMessageCommand({
        QueueUrl: stack.queue.deadLetterQueueUrl,
        VisibilityTimeout: 0,
        MessageAttributeNames: ["All"],
      }),
    );
    return messages?.[0];
  }

  async function replayAll(): Promise<unknown> {
    const { queue } = stack;
    await using redrive = new FunctionProcess({
      functionName: "redrive",
      bundle: REDRIVE,
      environment: {
        ...queue.environment,
        DEAD_LETTER_QUEUE_URL: queue.deadLetterQueueUrl,
        COMPLETIONS_QUEUE_URL: queue.queueUrl,
      },
      timeoutMs: 30_000,
      onOutput: () => undefined,
      runtime: "aws",
    });
    return await redrive.invoke({ all: true });
  }

  it("a failure skips everything downstream, level by level", async () => {
    const workflow = parseWorkflow(cascade(), "test");
    if (!workflow.ok) throw new Error(workflow.errors.join("; "));
    const assignment = {
      workflow: workflow.value,
      failing: new Set(["top"]),
      warnings: [],
      dispatch: "queue" as const,
    };
    const result = await runWorkflow(stack, ROUTER, assignment, new AbortController().signal, {
      onProgress: () => undefined,
      onError: (error) => errors.push(error),
    });
    expect(result.unfinished).toBe(0);
    expect(result.status.ended).toEqual({
      success: 1,
      failed: 1,
      cancelled: 0,
      expired: 0,
      skipped: 17,
    } satisfies FlowStatus["ended"]);
    expect(stack.poller.counts.maxDepth).toBe(3);
    expect(await completions()).toEqual(EMPTY);
    expect(await deadLetters()).toEqual(EMPTY);
    expect(errors).toEqual([]);
  });

  it("a malformed message is dead-lettered after one delivery, unchanged, with its reason", async () => {
    const before = stack.poller.counts;
    await send("not a completion: żółw 語");
    await vi.waitFor(async () => expect(await deadLetters()).toMatchObject({ visible: 1 }), WAIT);
    expect(stack.poller.counts.deliveries).toBe(before.deliveries + 1);
    const letter = await peekDeadLetter();
    expect(letter?.Body).toBe("not a completion: żółw 語");
    expect(letter?.MessageAttributes).toMatchObject({
      error_code: { DataType: "String", StringValue: "malformed_message" },
    });
    await client.send(
      new DeleteMessageCommand({
        QueueUrl: stack.queue.deadLetterQueueUrl,
        ReceiptHandle: letter?.ReceiptHandle,
      }),
    );
    expect(await deadLetters()).toEqual(EMPTY);
  });

  it("a message that keeps failing is dead-lettered after five deliveries, and dispatched once replayed", {
    timeout: 60_000,
  }, async () => {
    const fixture = new FlowFixture(stack.valkey, undefined, ROUTER);
    const { parent, children } = await family(fixture, 2);
    await fixture.finish(parent, "success");
    const ended = await fixture.hash(parent.core);
    // Without a record the message fails.
    await fixture.read("del", parent.core);
    const before = stack.poller.counts;
    await send(JSON.stringify({ execution_id: parent.id, flow_id: fixture.flow.id, outcome: "success" }));
    await vi.waitFor(async () => {
      expect(stack.poller.counts.failed - before.failed).toBe(MAX_RECEIVES);
      // Some implementations move a message to the dead-letter queue only on the next receive.
      expect((await peekDeadLetter())?.Body).toContain(parent.id);
    }, WAIT);
    expect(await completions()).toEqual(EMPTY);
    expect(stack.poller.counts.deliveries - before.deliveries).toBe(MAX_RECEIVES);

    await fixture.read("hset", parent.core, ...Object.entries(ended).flat());
    expect(await replayAll()).toMatchObject({
      replayed: 1,
      failed: 0,
      ended: "complete",
      method: replaysBy,
    });
    await vi.waitFor(async () => {
      const states = await Promise.all(children.map((child) => stateOf(fixture, child)));
      expect(states).toEqual(["waiting", "waiting"]);
      expect(await completions()).toEqual(EMPTY);
    }, WAIT);
  });
});
