import type { SendMessageBatchRequestEntry } from "@aws-sdk/client-sqs";
import { messageOf, PublishError } from "#shared/errors.ts";
import type { QueueClient } from "#shared/queue/client.ts";

/** SQS takes no more entries in one SendMessageBatch, … */
const BATCH_SIZE = 10;
/** … and no more bytes: bodies, attributes with their names and types, of all entries together. */
const BATCH_BYTES = 1_048_576;
/** Batches on their way at once. */
const CONCURRENCY = 8;
/** Sends of one entry, the first included, before it counts as refused. */
const ATTEMPTS = 4;
const FIRST_PAUSE_MS = 50;
/** A timer cannot be set for longer. */
const LONGEST_TIMER_MS = 2 ** 31;

export type SendResult = { readonly ok: true } | { readonly ok: false; readonly error: PublishError };

/** A message to send; its place in the batch is the sender's business. */
export type QueueEntry = Omit<SendMessageBatchRequestEntry, "Id">;

type Pending = { readonly position: number; readonly entry: QueueEntry };
type Refusal = { readonly reason: string; readonly final: boolean };

/**
 * Sends messages to an SQS queue. SQS answers 200 with a list of entries that it did not take: those are
 * sent again, with growing pauses. ErrorList of a whole request are the SDK's to retry.
 */
export class BatchSender {
  readonly #client: QueueClient;
  readonly #queueUrl: string;

  constructor(client: QueueClient, queueUrl: string) {
    this.#client = client;
    this.#queueUrl = queueUrl;
  }

  /**
   * Sends all of them; results are in the entries' order. Never rejects. What is not accepted by `deadlineMs`
   * (milliseconds since the epoch; none unless given) is given up.
   */
  async send(entries: readonly QueueEntry[], deadlineMs = Number.POSITIVE_INFINITY): Promise<SendResult[]> {
    const leftMs = deadlineMs - Date.now();
    const signal = leftMs < LONGEST_TIMER_MS ? AbortSignal.timeout(Math.max(0, leftMs)) : undefined;
    const results = new Array<SendResult>(entries.length);
    const batches = inBatches(entries);
    const queue = batches.values();
    const senders = Array.from({ length: Math.min(CONCURRENCY, batches.length) }, async () => {
      for (const batch of queue) await this.#sendBatch(batch, results, signal);
    });
    await Promise.all(senders);
    return results;
  }

  async #sendBatch(
    batch: readonly Pending[],
    results: SendResult[],
    signal: AbortSignal | undefined,
  ): Promise<void> {
    let pending = batch;
    for (let attempt = 1; pending.length > 0; attempt += 1) {
      const refusals = await this.#attempt(pending, signal);
      const again: Pending[] = [];
      for (const entry of pending) {
        const refusal = refusals.get(entry.position);
        if (refusal === undefined) results[entry.position] = { ok: true };
        else if (refusal.final || attempt === ATTEMPTS || signal?.aborted === true) {
          results[entry.position] = { ok: false, error: new PublishError(refusal.reason) };
        } else again.push(entry);
      }
      pending = again;
      if (pending.length > 0) await pause(FIRST_PAUSE_MS * 2 ** (attempt - 1));
    }
  }

  /** Sends the entries once; maps the position of each that SQS did not accept to its reason. */
  async #attempt(
    pending: readonly Pending[],
    signal: AbortSignal | undefined,
  ): Promise<Map<number, Refusal>> {
    const refusals = new Map<number, Refusal>();
    try {
      // As the client, loaded with the first request.
      const { SendMessageBatchCommand } = await import("#shared/queue/sdk.ts");
      const command = new SendMessageBatchCommand({
        QueueUrl: this.#queueUrl,
        Entries: pending.map(({ entry, position }) => ({ ...entry, Id: String(position) })),
      });
      const response = await this.#client.send(command, signal === undefined ? {} : { abortSignal: signal });
      const accepted = new Set(response.Successful?.map(({ Id: id }) => id));
      const failed = new Map(response.Failed?.map((refused) => [refused.Id, refused]));
      for (const { position } of pending) {
        if (accepted.has(String(position))) continue;
        const refused = failed.get(String(position));
        refusals.set(position, {
          reason: refused
            ? `the queue refused the message: ${refused.Code}: ${refused.Message ?? "no reason given"}`
            : "the queue's answer does not mention the message",
          final: false,
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

function inBatches(entries: readonly QueueEntry[]): Pending[][] {
  const batches: Pending[][] = [];
  let bytes = 0;
  for (const [position, entry] of entries.entries()) {
    const size = bytesOf(entry);
    const last = batches.at(-1);
    if (last === undefined || last.length === BATCH_SIZE || bytes + size > BATCH_BYTES) {
      batches.push([{ position, entry }]);
      bytes = size;
    } else {
      last.push({ position, entry });
      bytes += size;
    }
  }
  return batches;
}

function bytesOf({ MessageBody: body, MessageAttributes: attributes = {} }: QueueEntry): number {
  let bytes = Buffer.byteLength(body ?? "");
  for (const [name, { DataType: type, StringValue: text, BinaryValue: binary }] of Object.entries(
    attributes,
  )) {
    bytes += Buffer.byteLength(name) + Buffer.byteLength(type ?? "") + Buffer.byteLength(text ?? "");
    bytes += binary?.byteLength ?? 0;
  }
  return bytes;
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms * (0.5 + Math.random())));
}
