import type { LaneId } from "#shared/contract/ids.ts";
import { messageOf } from "#shared/errors.ts";
import type { QueueClient } from "#shared/queue/client.ts";
import type { Log } from "#shared/runtime/telemetry.ts";
import { chunked } from "#shared/valkey/batches.ts";

/** A received message. */
export interface Receipt {
  /** The lane of the queue that it came from. */
  readonly lane: LaneId;
  readonly receiptHandle: string;
}

/** SQS accepts at most 10 entries in one request. */
const MAX_ENTRIES = 10;
/** SQS hides a message for at most 12 hours in all. */
const LONGEST_DELAY_SECONDS = 43_200;

/** Deletes and delays messages of the ready queues. Failures are only logged: the messages are delivered again. */
export class ReadyQueues {
  readonly #client: QueueClient;
  readonly #urls: ReadonlyMap<LaneId, string>;

  constructor(client: QueueClient, urls: ReadonlyMap<LaneId, string>) {
    this.#client = client;
    this.#urls = urls;
  }

  /** Deletes messages. A message that is not deleted is delivered again, and then finds that nothing is left to do. */
  async acknowledge(receipts: readonly Receipt[], log: Log): Promise<void> {
    if (receipts.length === 0) return;
    const { DeleteMessageBatchCommand } = await import("#shared/queue/sdk.ts");
    await this.#each(receipts, log, (QueueUrl, chunk) =>
      this.#client.send(
        new DeleteMessageBatchCommand({
          QueueUrl,
          Entries: chunk.map(({ receiptHandle }, at) => ({ Id: String(at), ReceiptHandle: receiptHandle })),
        }),
      ),
    );
  }

  /** Delivers messages again after a time. Without an answer, they are delivered after their visibility timeout. */
  async delay(receipts: readonly (Receipt & { readonly afterMs: number })[], log: Log): Promise<void> {
    if (receipts.length === 0) return;
    const { ChangeMessageVisibilityBatchCommand } = await import("#shared/queue/sdk.ts");
    await this.#each(receipts, log, (QueueUrl, chunk) =>
      this.#client.send(
        new ChangeMessageVisibilityBatchCommand({
          QueueUrl,
          Entries: chunk.map(({ receiptHandle, afterMs }, at) => ({
            Id: String(at),
            ReceiptHandle: receiptHandle,
            VisibilityTimeout: Math.min(LONGEST_DELAY_SECONDS, Math.ceil(afterMs / 1_000)),
          })),
        }),
      ),
    );
  }

  async #each<R extends Receipt>(
    receipts: readonly R[],
    log: Log,
    send: (url: string, chunk: readonly R[]) => Promise<unknown>,
  ): Promise<void> {
    const lanes = Map.groupBy(receipts, ({ lane }) => lane);
    for (const [lane, own] of lanes) {
      const url = this.#urls.get(lane);
      if (url === undefined) continue;
      for (const chunk of chunked(own, () => 1, MAX_ENTRIES)) {
        try {
          await send(url, chunk);
        } catch (error) {
          log.warn("ready queue not reached, messages will be delivered again", {
            lane,
            reason: messageOf(error),
          });
        }
      }
    }
  }
}
