import { SendMessageBatchCommand, type SQSClient } from "@aws-sdk/client-sqs";
import { messageOf, PublishError } from "#shared/errors.ts";
import type { Completion, CompletionSink, SendResult } from "#shared/queue/completion.ts";
import { entryOf } from "#shared/queue/message.ts";

/** SQS takes no more entries in one SendMessageBatch. */
const BATCH_SIZE = 10;
/** Batches on their way at once. */
const CONCURRENCY = 8;
/** Sends of one entry, the first included, before it counts as refused. */
const ATTEMPTS = 4;
const FIRST_PAUSE_MS = 50;

type Pending = { readonly position: number; readonly completion: Completion };

/**
 * Sends completions to an SQS queue. SQS answers 200 with a list of entries that it did not take: those are
 * sent again, with growing pauses. Faults of a whole request are the SDK's to retry.
 */
export class SqsCompletionSink implements CompletionSink {
  readonly #client: Pick<SQSClient, "send">;
  readonly #queueUrl: string;

  constructor(client: Pick<SQSClient, "send">, queueUrl: string) {
    this.#client = client;
    this.#queueUrl = queueUrl;
  }

  async send(completions: readonly Completion[]): Promise<SendResult[]> {
    const results = new Array<SendResult>(completions.length);
    const batches: Pending[][] = [];
    for (const [position, completion] of completions.entries()) {
      if (position % BATCH_SIZE === 0) batches.push([]);
      batches.at(-1)?.push({ position, completion });
    }
    const queue = batches.values();
    const senders = Array.from({ length: Math.min(CONCURRENCY, batches.length) }, async () => {
      for (const batch of queue) await this.#sendBatch(batch, results);
    });
    await Promise.all(senders);
    return results;
  }

  async #sendBatch(batch: readonly Pending[], results: SendResult[]): Promise<void> {
    let pending = batch;
    for (let attempt = 1; pending.length > 0; attempt += 1) {
      const refusals = await this.#attempt(pending);
      const again: Pending[] = [];
      for (const entry of pending) {
        const refusal = refusals.get(entry.position);
        if (refusal === undefined) results[entry.position] = { ok: true };
        else if (refusal.final || attempt === ATTEMPTS) {
          results[entry.position] = { ok: false, error: new PublishError(refusal.reason) };
        } else again.push(entry);
      }
      pending = again;
      if (pending.length > 0) await pause(FIRST_PAUSE_MS * 2 ** (attempt - 1));
    }
  }

  /** Sends the entries once; maps the position of each that SQS did not accept to its reason. */
  async #attempt(pending: readonly Pending[]): Promise<Map<number, { reason: string; final: boolean }>> {
    const refusals = new Map<number, { reason: string; final: boolean }>();
    const command = new SendMessageBatchCommand({
      QueueUrl: this.#queueUrl,
      Entries: pending.map(({ completion, position }) => entryOf(completion, String(position))),
    });
    try {
      const response = await this.#client.send(command);
      const accepted = new Set(response.Successful?.map((entry) => entry.Id));
      const failed = new Map(response.Failed?.map((entry) => [entry.Id, entry]));
      for (const { position } of pending) {
        if (accepted.has(String(position))) continue;
        const entry = failed.get(String(position));
        refusals.set(position, {
          reason: entry
            ? `the queue refused the message: ${entry.Code}: ${entry.Message ?? "no reason given"}`
            : "the queue's answer does not mention the message",
          final: entry?.SenderFault ?? false,
        });
      }
    } catch (error) {
      for (const { position } of pending) {
        refusals.set(position, { reason: `sending to the queue failed: ${messageOf(error)}`, final: true });
      }
    }
    return refusals;
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms * (0.5 + Math.random())));
}
