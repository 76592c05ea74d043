import { DeleteMessageCommand, ReceiveMessageCommand, SendMessageCommand } from "@aws-sdk/client-sqs";
import type { DeadLetterBench } from "#test/support/dead-letters.ts";
import type { ProxyAnswer } from "#test/support/faulty-queue.ts";

const HANDLE = "the-handle";

/**
 * A FAKE of SQS move tasks, which the emulator does not have. The bench's proxy answers the three operations. Each list
 * request moves some messages from queue to queue, unchanged.
 */
export class FakeMoveTasks {
  readonly #bench: DeadLetterBench;
  /** Messages moved by each list request. */
  movesPerList = 2;
  status: "RUNNING" | "COMPLETED" | "CANCELLING" | "CANCELLED" | "FAILED" | undefined;
  moved = 0;
  starts: unknown[] = [];

  constructor(bench: DeadLetterBench) {
    this.#bench = bench;
    bench.proxy.intercept = (operation, body) => this.#answer(operation, body);
  }

  async #answer(operation: string, body: string): Promise<ProxyAnswer | undefined> {
    switch (operation) {
      case "StartMessageMoveTask":
        this.starts.push(JSON.parse(body));
        this.status = "RUNNING";
        return { status: 200, body: { TaskHandle: HANDLE } };
      case "ListMessageMoveTasks":
        return { status: 200, body: { Results: await this.#list() } };
      case "CancelMessageMoveTask":
        if (this.status !== "RUNNING" || !body.includes(HANDLE)) {
          return {
            status: 400,
            body: { __type: "com.amazonaws.sqs#ResourceNotFoundException", message: "no" },
          };
        }
        this.status = "CANCELLING";
        return { status: 200, body: { ApproximateNumberOfMessagesMoved: this.moved } };
      default:
        return undefined;
    }
  }

  async #list(): Promise<object[]> {
    if (this.status === undefined) return [];
    const task = { Status: this.status, ApproximateNumberOfMessagesMoved: this.moved };
    if (this.status === "RUNNING") {
      for (let count = 0; count < this.movesPerList; count += 1) await this.#moveOne();
      task.ApproximateNumberOfMessagesMoved = this.moved;
      if ((await this.#bench.visible()) === 0) this.status = "COMPLETED";
    } else if (this.status === "CANCELLING") this.status = "CANCELLED";
    return [{ ...task, ...(task.Status === "RUNNING" ? { TaskHandle: HANDLE } : {}) }];
  }

  async #moveOne(): Promise<void> {
    const { client, queue } = this.#bench;
    const { Messages: messages = [] } = await client.send(
      new ReceiveMessageCommand({ QueueUrl: queue.deadLetterQueueUrl, MessageAttributeNames: ["All"] }),
    );
    for (const { Body, MessageAttributes, ReceiptHandle } of messages) {
      await client.send(
        new SendMessageCommand({ QueueUrl: queue.queueUrl, MessageBody: Body, MessageAttributes }),
      );
      await client.send(new DeleteMessageCommand({ QueueUrl: queue.deadLetterQueueUrl, ReceiptHandle }));
      this.moved += 1;
    }
  }
}
