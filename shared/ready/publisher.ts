import type { LaneId } from "#shared/contract/ids.ts";
import { pairResults } from "#shared/contract/results.ts";
import { PublishError } from "#shared/errors.ts";
import { BatchSender, type SendResult } from "#shared/queue/batch-sender.ts";
import type { QueueClient } from "#shared/queue/client.ts";
import { type ReadyExecution, readyEntry } from "#shared/ready/message.ts";

/**
 * The result of announcing one execution. `isClaimedHere`: a worker in this process claims it next, and no message was sent, so
 * that it needs no mark.
 */
export type ReadyResult = SendResult & { readonly isClaimedHere?: boolean };

/** Tells workers that executions can be claimed. */
export interface ReadyPublisher {
  /** Whether executions of this lane are announced. Those of other lanes are found by polling. */
  announces(lane: LaneId): boolean;
  /**
   * Announces all executions: one result per execution, in order. Never rejects. An execution that is not announced by
   * `deadlineMs` (milliseconds since the epoch; no deadline by default) fails.
   */
  announce(ready: readonly ReadyExecution[], deadlineMs?: number): Promise<ReadyResult[]>;
}

/**
 * Sends ready messages to the SQS queue of each execution's lane.
 *
 * @example
 * const ready = new SqsReadyPublisher(queueClient(), new Map([[lane, "https://sqs.eu-central-1.amazonaws.com/1/images"]]));
 */
export class SqsReadyPublisher implements ReadyPublisher {
  readonly #senders: ReadonlyMap<LaneId, BatchSender>;

  constructor(client: QueueClient, queueUrls: ReadonlyMap<LaneId, string>) {
    this.#senders = new Map([...queueUrls].map(([lane, url]) => [lane, new BatchSender(client, url)]));
  }

  announces(lane: LaneId): boolean {
    return this.#senders.has(lane);
  }

  async announce(ready: readonly ReadyExecution[], deadlineMs?: number): Promise<SendResult[]> {
    const results = new Map<ReadyExecution, SendResult>();
    const lanes = [...Map.groupBy(ready, ({ lane }) => lane)];
    await Promise.all(
      lanes.map(async ([lane, executions]) => {
        const sent = (await this.#senders.get(lane)?.send(executions.map(readyEntry), deadlineMs)) ?? [];
        for (const { item, result } of pairResults(executions, sent, noQueue)) results.set(item, result);
      }),
    );
    return ready.map((execution) => results.get(execution) ?? noQueue(execution));
  }
}

function noQueue({ lane }: ReadyExecution): SendResult {
  return { ok: false, error: new PublishError(`the lane ${lane} has no ready queue`, "refused") };
}
