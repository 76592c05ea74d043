import { setTimeout as sleep } from "node:timers/promises";
import type { Message, ReceiveMessageCommandOutput } from "@aws-sdk/client-sqs";
import type { Delivery, DeliveryResult } from "#sdk/kit/engine.ts";
import type { LaneRunner } from "#sdk/kit/lane-runner.ts";
import type { ReadyQueues } from "#sdk/kit/ready-queues.ts";
import { isObject } from "#shared/contract/message.ts";
import { messageOf } from "#shared/errors.ts";
import type { QueueClient } from "#shared/queue/client.ts";
import { parseReadyMessage } from "#shared/ready/message.ts";
import type { Log } from "#shared/runtime/telemetry.ts";

/** SQS returns at most 10 messages at once. */
const MAX_MESSAGES = 10;
/** SQS' maximum: an idle lane costs one request every 20 seconds. */
const LONG_POLL_SECONDS = 20;
/** How much longer than its wait a receive may take. */
const RECEIVE_TIMEOUT_MS = 5_000;
/**
 * How long a received message is hidden. It is extended every half of it while the task runs. Short: when the worker stops
 * during a long poll, SQS may have handed out messages that it never receives.
 */
const VISIBILITY_SECONDS = 30;
/** SQS keeps no message in flight for longer than 12 hours: before that it is deleted, and the lease carries on. */
const MAX_IN_FLIGHT_MS = 11 * 3_600_000;
const PAUSE_AFTER_ERROR_MS = 1_000;
/** How often a paused lane is looked at. */
const PAUSE_WHILE_PAUSED_MS = 1_000;
const TIMES = {
  maxInFlightMs: MAX_IN_FLIGHT_MS,
  extendEveryMs: (VISIBILITY_SECONDS / 2) * 1_000,
  longPollSeconds: LONG_POLL_SECONDS,
};

/** Other times than the default ones, for tests and emulators. */
export type ReceiveTimes = Partial<typeof TIMES>;

interface InFlight {
  readonly receiptHandle: string;
  readonly receivedAt: number;
}

/**
 * Receives the ready messages of one lane, as many as the lane has room for, and settles each when its execution has ended.
 *
 * It does not use the package sqs-consumer: that one receives a batch only when the batch before has been handled as a whole,
 * so that one long task would keep all other places of the lane empty.
 */
export class QueueSource {
  readonly #client: QueueClient;
  readonly #queueUrl: string;
  readonly #queues: ReadyQueues;
  readonly #lane: LaneRunner;
  readonly #log: Log;
  readonly #inFlight = new Set<InFlight>();
  readonly #done: InFlight[] = [];
  readonly #retried: (InFlight & { readonly afterMs: number })[] = [];
  #settling: Promise<void> = Promise.resolve();
  #extending: NodeJS.Timeout | undefined;
  readonly #times: typeof TIMES;

  constructor(
    client: QueueClient,
    queueUrl: string,
    queues: ReadyQueues,
    lane: LaneRunner,
    log: Log,
    times: ReceiveTimes = {},
  ) {
    this.#times = { ...TIMES, ...times };
    this.#client = client;
    this.#queueUrl = queueUrl;
    this.#queues = queues;
    this.#lane = lane;
    this.#log = log;
  }

  /** Receives until the signal aborts. The messages of running executions stay hidden until `settled`. */
  async run(signal: AbortSignal): Promise<void> {
    this.#extending = setInterval(() => void this.#extend(), this.#times.extendEveryMs).unref();
    const stopped = aborted(signal);
    while (!signal.aborted) {
      const { free } = this.#lane;
      if (free === 0) {
        await Promise.race([this.#lane.changed, stopped]);
        continue;
      }
      // The messages of a paused lane stay in the queue: a receive would count towards its dead-letter queue.
      if (await this.#lane.isPaused()) {
        await Promise.race([sleep(PAUSE_WHILE_PAUSED_MS, undefined, { ref: false }), stopped]);
        continue;
      }
      try {
        for (const message of await this.#receive(Math.min(MAX_MESSAGES, free), signal))
          this.#deliver(message);
      } catch (error) {
        if (signal.aborted) break;
        this.#log.warn("ready queue not reached, will retry", {
          lane: this.#lane.lane,
          reason: messageOf(error),
        });
        await Promise.race([sleep(PAUSE_AFTER_ERROR_MS, undefined, { ref: false }), stopped]);
      }
    }
  }

  /** Resolves when all results so far have reached the queue. Messages without a result are no longer hidden. */
  async settled(): Promise<void> {
    clearInterval(this.#extending);
    await this.#settling;
  }

  async #receive(limit: number, signal: AbortSignal): Promise<readonly Message[]> {
    const { ReceiveMessageCommand } = await import("#shared/queue/sdk.ts");
    const response: ReceiveMessageCommandOutput = await this.#client.send(
      new ReceiveMessageCommand({
        QueueUrl: this.#queueUrl,
        MaxNumberOfMessages: limit,
        WaitTimeSeconds: this.#times.longPollSeconds,
        VisibilityTimeout: VISIBILITY_SECONDS,
        MessageAttributeNames: ["All"],
        MessageSystemAttributeNames: ["All"],
      }),
      { abortSignal: signal, requestTimeout: this.#times.longPollSeconds * 1_000 + RECEIVE_TIMEOUT_MS },
    );
    return response.Messages ?? [];
  }

  #deliver(message: Message): void {
    const { MessageId: messageId = "", ReceiptHandle: receiptHandle = "" } = message;
    const ready = parseReadyMessage(recordOf(message));
    if (!ready.ok) {
      // Not deleted: the queue moves it to its dead-letter queue after enough deliveries.
      this.#log.error("message is no ready message", { message_id: messageId, reason: ready.error.message });
      return;
    }
    const inFlight = { receiptHandle, receivedAt: performance.now() };
    this.#inFlight.add(inFlight);
    const receiveCount = Number(message.Attributes?.ApproximateReceiveCount) || 1;
    const delivery: Delivery = { messageId, receiveCount, ready: ready.value };
    this.#lane.deliver(delivery, (result) => this.#settle(inFlight, delivery, result));
  }

  #settle(inFlight: InFlight, delivery: Delivery, result: DeliveryResult): void {
    if (!this.#inFlight.delete(inFlight)) return;
    if (result.kind === "done") this.#done.push(inFlight);
    else {
      this.#log.warn("message failed, will retry", {
        message_id: delivery.messageId,
        execution_id: delivery.ready.executionId,
        reason: result.reason,
      });
      if (result.afterMs === undefined) return;
      this.#retried.push({ ...inFlight, afterMs: result.afterMs });
    }
    // What is settled while a request is in flight shares the next one.
    this.#settling = this.#settling.then(() => this.#flush());
  }

  async #flush(): Promise<void> {
    const { lane } = this.#lane;
    const done = this.#done.splice(0).map(({ receiptHandle }) => ({ lane, receiptHandle }));
    const retried = this.#retried
      .splice(0)
      .map(({ receiptHandle, afterMs }) => ({ lane, receiptHandle, afterMs }));
    await this.#queues.acknowledge(done, this.#log);
    await this.#queues.delay(retried, this.#log);
  }

  /** Keeps the messages of running executions hidden. */
  async #extend(): Promise<void> {
    const { lane } = this.#lane;
    const isOld = ({ receivedAt }: InFlight): boolean =>
      performance.now() - receivedAt > this.#times.maxInFlightMs;
    const old = [...this.#inFlight].filter(isOld);
    for (const one of old) this.#inFlight.delete(one);
    await this.#queues.acknowledge(
      old.map(({ receiptHandle }) => ({ lane, receiptHandle })),
      this.#log,
    );
    await this.#queues.delay(
      [...this.#inFlight].map(({ receiptHandle }) => ({
        lane,
        receiptHandle,
        afterMs: VISIBILITY_SECONDS * 1_000,
      })),
      this.#log,
    );
  }
}

/** A received message in the form that Lambda passes to a function. */
function recordOf({ Body: body, Attributes: attributes, MessageAttributes: own = {} }: Message): unknown {
  const messageAttributes = Object.fromEntries(
    Object.entries(own).map(([name, attribute]) => [
      name,
      { dataType: attribute.DataType, stringValue: isObject(attribute) ? attribute.StringValue : undefined },
    ]),
  );
  return { body, attributes, messageAttributes };
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
