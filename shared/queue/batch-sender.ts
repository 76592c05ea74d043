import type { SendMessageBatchRequestEntry } from "@aws-sdk/client-sqs";
import { messageOf, PublishError } from "#shared/errors.ts";
import type { QueueClient } from "#shared/queue/client.ts";

/** SQS accepts at most 10 entries in one SendMessageBatch. */
const MAX_ENTRIES = 10;
/** SQS accepts at most 1 MiB in one SendMessageBatch: bodies, attribute names, types and values of all entries. */
const MAX_BYTES = 1_048_576;
/** Batches in flight at once. */
const CONCURRENCY = 8;
/** Maximum attempts to send one entry that the queue refuses. */
const MAX_ATTEMPTS = 4;
const FIRST_PAUSE_MS = 50;
/** The longest delay of a timer in Node. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** The result of sending one message. */
export type SendResult = { readonly ok: true } | { readonly ok: false; readonly error: PublishError };

/** A message to send. The sender assigns the id within the batch. */
export type QueueEntry = Omit<SendMessageBatchRequestEntry, "Id">;

type Pending = { readonly position: number; readonly entry: QueueEntry };

/** Why one attempt did not deliver an entry. */
interface Failure {
  readonly reason: string;
  readonly outcome: PublishError["outcome"];
  /** Whether another attempt may succeed and cannot duplicate the message. */
  readonly retry: boolean;
  /** Whether SQS refused the whole request because of one entry, so that the others may be accepted without it. */
  readonly blamesEntry?: boolean;
}

/**
 * Sends messages to an SQS queue.
 *
 * A send can fail in two ways:
 * - `refused`: SQS answered that it did not accept the entry, or was never reached. The entry is retried with backoff.
 *   If SQS refuses a whole request because of an entry, each entry is sent alone.
 * - `unknown`: no answer arrived (timeout, reset, 5xx), so SQS may have accepted the entry. It is not sent again here,
 *   since that may duplicate it. The caller must not acknowledge the message that caused the send.
 *
 * The client makes each request once (`SendOptions.once`): the retries of the SDK would duplicate messages.
 */
export class BatchSender {
  readonly #client: QueueClient;
  readonly #queueUrl: string;

  constructor(client: QueueClient, queueUrl: string) {
    this.#client = client;
    this.#queueUrl = queueUrl;
  }

  /**
   * Sends all entries: one result per entry, in the entries' order. Never rejects. An entry fails if it is not accepted
   * by `deadlineMs` (milliseconds since the epoch; no deadline by default).
   */
  async send(entries: readonly QueueEntry[], deadlineMs = Number.POSITIVE_INFINITY): Promise<SendResult[]> {
    const leftMs = Math.ceil(deadlineMs - Date.now());
    const signal = leftMs < LONGEST_TIMER_MS ? AbortSignal.timeout(Math.max(0, leftMs)) : undefined;
    const results = new Map<number, SendResult>();
    const batches = inBatches(entries);
    const queue = batches.values();
    const senders = Array.from({ length: Math.min(CONCURRENCY, batches.length) }, async () => {
      for (const batch of queue) {
        for (const [position, result] of await this.#sendBatch(batch, deadlineMs, signal)) {
          results.set(position, result);
        }
      }
    });
    await Promise.all(senders);
    return entries.map(
      (_, position) =>
        results.get(position) ??
        failure({ reason: "the message was not sent", outcome: "refused", retry: false }),
    );
  }

  /** Sends one batch until each of its entries is accepted, unknown, or refused for good. */
  async #sendBatch(
    batch: readonly Pending[],
    deadlineMs: number,
    signal: AbortSignal | undefined,
  ): Promise<Map<number, SendResult>> {
    const results = new Map<number, SendResult>();
    let pending = batch;
    for (let attempt = 1; pending.length > 0; attempt += 1) {
      if (Date.now() >= deadlineMs) {
        for (const { position } of pending) {
          results.set(
            position,
            failure({ reason: "the deadline passed before the send", outcome: "refused", retry: false }),
          );
        }
        return results;
      }
      const failures = await this.#attempt(pending, signal);
      if (pending.length > 1 && pending.every(({ position }) => failures.get(position)?.blamesEntry)) {
        const alone = await Promise.all(pending.map((one) => this.#sendBatch([one], deadlineMs, signal)));
        return new Map([...results, ...alone.flatMap((one) => [...one])]);
      }
      const again: Pending[] = [];
      for (const one of pending) {
        const failed = failures.get(one.position);
        if (failed === undefined) results.set(one.position, { ok: true });
        else if (failed.retry && attempt < MAX_ATTEMPTS) again.push(one);
        else results.set(one.position, failure(failed));
      }
      pending = again;
      if (pending.length > 0) await pause(FIRST_PAUSE_MS * 2 ** (attempt - 1));
    }
    return results;
  }

  /** Sends the entries once. Maps the position of each entry that SQS did not confirm to the failure. */
  async #attempt(
    pending: readonly Pending[],
    signal: AbortSignal | undefined,
  ): Promise<Map<number, Failure>> {
    try {
      // Loaded with the first request, like the client.
      const { SendMessageBatchCommand } = await import("#shared/queue/sdk.ts");
      const command = new SendMessageBatchCommand({
        QueueUrl: this.#queueUrl,
        Entries: pending.map(({ entry, position }) => ({ ...entry, Id: String(position) })),
      });
      const response = await this.#client.send(command, {
        once: true,
        ...(signal === undefined ? {} : { abortSignal: signal }),
      });
      const accepted = new Set(response.Successful?.map(({ Id: id }) => id));
      const refused = new Map(response.Failed?.map((entry) => [entry.Id, entry]));
      return new Map(
        pending
          .filter(({ position }) => !accepted.has(String(position)))
          .map(({ position }) => {
            const entry = refused.get(String(position));
            return [position, entry === undefined ? NOT_MENTIONED : refusalOf(entry)];
          }),
      );
    } catch (error) {
      const failed = failureOf(error);
      return new Map(pending.map(({ position }) => [position, failed]));
    }
  }
}

const NOT_MENTIONED: Failure = {
  reason: "the queue's answer does not mention the message",
  outcome: "unknown",
  retry: false,
};

function refusalOf(entry: {
  readonly Code?: string | undefined;
  readonly Message?: string | undefined;
  readonly SenderFault?: boolean | undefined;
}): Failure {
  return {
    reason: `the queue refused the message: ${entry.Code}: ${entry.Message ?? "no reason given"}`,
    outcome: "refused",
    // SenderFault: the entry itself is invalid, so another attempt would fail too.
    retry: entry.SenderFault !== true,
  };
}

/** Errors raised before a request left this process: name resolution, connection, credentials. */
const NEVER_SENT = /^(?:ECONNREFUSED|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|CERT_\w+|ERR_TLS_\w+)$/;
const NO_CREDENTIALS = "CredentialsProviderError";
const THROTTLED = /Throttl|TooManyRequests|RequestLimitExceeded|SlowDown/i;
/** Errors of a whole request that one of its entries may have caused. */
const ENTRY_ERROR = /Invalid(?:Parameter|Attribute|Message)|MissingParameter|EmptyValue|BatchRequestTooLong/;
const TOO_MANY_REQUESTS = 429;

/** Classifies the error of a whole request. If in doubt, the outcome is `unknown`: the message is retried, not lost. */
function failureOf(error: unknown): Failure {
  const reason = `sending to the queue failed: ${messageOf(error)}`;
  const { name, code, $metadata: metadata } = Object(error);
  if (name === NO_CREDENTIALS) return { reason, outcome: "refused", retry: false };
  if (NEVER_SENT.test(String(code))) return { reason, outcome: "refused", retry: true };
  const status = Number(metadata?.httpStatusCode);
  if (status >= 400 && status < 500) {
    return {
      reason,
      outcome: "refused",
      retry: status === TOO_MANY_REQUESTS || THROTTLED.test(String(name)),
      blamesEntry: ENTRY_ERROR.test(String(name)),
    };
  }
  return { reason, outcome: "unknown", retry: false };
}

function failure({ reason, outcome }: Failure): SendResult {
  return { ok: false, error: new PublishError(reason, outcome) };
}

function inBatches(entries: readonly QueueEntry[]): Pending[][] {
  const batches: Pending[][] = [];
  let bytes = 0;
  for (const [position, entry] of entries.entries()) {
    const size = sizeOf(entry);
    const last = batches.at(-1);
    if (last === undefined || last.length === MAX_ENTRIES || bytes + size > MAX_BYTES) {
      batches.push([{ position, entry }]);
      bytes = size;
    } else {
      last.push({ position, entry });
      bytes += size;
    }
  }
  return batches;
}

/** The bytes of an entry, as SQS counts them. */
function sizeOf({ MessageBody: body, MessageAttributes: attributes = {} }: QueueEntry): number {
  let bytes = Buffer.byteLength(body ?? "");
  for (const [name, { DataType: type, StringValue: text, BinaryValue: binary }] of Object.entries(
    attributes,
  )) {
    bytes += Buffer.byteLength(name) + Buffer.byteLength(type ?? "") + Buffer.byteLength(text ?? "");
    bytes += binary?.byteLength ?? 0;
  }
  return bytes;
}

/** Waits for 0.5 to 1.5 times `ms`, so that senders do not retry at the same moment. */
function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms * (0.5 + Math.random())));
}
