/** Ready messages in tests: a publisher that records them, and real ready queues. */

import { randomUUID } from "node:crypto";
import { CreateQueueCommand, type SQSClient } from "@aws-sdk/client-sqs";
import { recordOf } from "#local/event.ts";
import type { LocalQueue } from "#local/queue.ts";
import type { LaneId } from "#shared/contract/ids.ts";
import { PublishError } from "#shared/errors.ts";
import type { SendResult } from "#shared/queue/batch-sender.ts";
import { parseReadyMessage, type ReadyExecution } from "#shared/ready/message.ts";
import type { ReadyPublisher } from "#shared/ready/publisher.ts";
import { drainQueue } from "#test/support/drain.ts";
import { LANE } from "#test/support/flow-fixture.ts";

/** Records what is announced, and fails as `fail` says. */
export class RecordedReady implements ReadyPublisher {
  readonly announced: ReadyExecution[] = [];
  fail: ((position: number) => boolean) | undefined;
  /** How a message that fails ends. */
  failure: PublishError["outcome"] = "unknown";
  readonly #lanes: readonly LaneId[];

  constructor(lanes: readonly LaneId[] = [LANE]) {
    this.#lanes = lanes;
  }

  announces(lane: LaneId): boolean {
    return this.#lanes.includes(lane);
  }

  announce(ready: readonly ReadyExecution[]): Promise<SendResult[]> {
    return Promise.resolve(
      ready.map((one, position) => {
        if (this.fail?.(position))
          return { ok: false, error: new PublishError("not accepted", this.failure) };
        this.announced.push(one);
        return { ok: true };
      }),
    );
  }

  get ids(): string[] {
    return this.announced.map(({ executionId }) => executionId);
  }
}

/** Ports of the reconciler that record what is announced; each lane's queue holds `queued` messages. */
export function readyPorts(lanes: readonly LaneId[] = [LANE]) {
  const publisher = new RecordedReady(lanes);
  const queue = { queued: 0 };
  const backlogs = new Map(lanes.map((lane) => [lane, { count: () => Promise.resolve(queue.queued) }]));
  return { publisher, backlogs, queue };
}

/** Creates a queue, and returns its URL. */
export async function createReadyQueue(client: SQSClient, queue: LocalQueue): Promise<string> {
  const { QueueUrl: url = "" } = await client.send(
    new CreateQueueCommand({ QueueName: `ready-${randomUUID()}`, Attributes: { VisibilityTimeout: "60" } }),
  );
  return `${queue.endpoint}${new URL(url).pathname}`;
}

/** Receives and deletes the visible messages of a ready queue, parsed as a worker parses them. */
export async function drainReady(client: SQSClient, queueUrl: string): Promise<ReadyExecution[]> {
  return (await drainQueue(client, queueUrl)).map((message) => {
    const parsed = parseReadyMessage(recordOf(message, { queueArn: "arn", region: "us-east-1" }));
    if (!parsed.ok) throw parsed.error;
    return parsed.value;
  });
}
