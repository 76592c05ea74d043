/** A dead-letter queue, a completions queue, and replays between them with a fake clock. */

import {
  type Message,
  type MessageAttributeValue,
  SendMessageCommand,
  type SQSClient,
} from "@aws-sdk/client-sqs";
import { type LocalQueue, type QueueCounts, startQueue } from "#local/queue.ts";
import type { Clock, Limits } from "#shared/redrive/clock.ts";
import { type RedrivePorts, redriveSlice } from "#shared/redrive/redrive.ts";
import type { RedriveReport } from "#shared/redrive/report.ts";
import { parseRequest } from "#shared/redrive/request.ts";
import { drainQueue } from "#test/support/drain.ts";
import { FaultyQueue } from "#test/support/faulty-queue.ts";

export const FLOW = "550e8400-e29b-41d4-a716-446655440000";
const NO_LIMITS: Limits = {
  deadlineMs: Number.POSITIVE_INFINITY,
  signal: new AbortController().signal,
};
const NOTHING_HIDDEN = { inFlight: 0, delayed: 0 };

/** A clock that advances only in pauses. It starts a minute ahead, so that every message is older than the replay. */
class FakeClock implements Clock {
  #now = Date.now() + 60_000;
  /** Called in every pause. */
  onPause: () => void = () => undefined;

  now(): number {
    return this.#now;
  }

  async pause(ms: number): Promise<void> {
    this.#now += ms;
    this.onPause();
  }
}

export interface Letter {
  readonly body?: string;
  readonly code?: string;
  readonly replays?: number;
  readonly attributes?: Record<string, MessageAttributeValue>;
}

export class DeadLetterBench implements AsyncDisposable {
  readonly queue: LocalQueue;
  readonly client: SQSClient;
  /** Stands between a replay and the queue, and injects faults. */
  readonly proxy: FaultyQueue;
  readonly clock = new FakeClock();

  private constructor(queue: LocalQueue, proxy: FaultyQueue) {
    this.queue = queue;
    this.proxy = proxy;
    this.client = queue.client();
  }

  static async start(): Promise<DeadLetterBench> {
    const queue = await startQueue({ visibilityTimeoutSeconds: 60 });
    return new DeadLetterBench(queue, await FaultyQueue.before(queue.endpoint));
  }

  /** Sends messages to the dead-letter queue in order. Returns their ids. */
  async put(...letters: readonly Letter[]): Promise<string[]> {
    const ids: string[] = [];
    for (const { body = completion(FLOW), code, replays, attributes = {} } of letters) {
      const sent = await this.client.send(
        new SendMessageCommand({
          QueueUrl: this.queue.deadLetterQueueUrl,
          MessageBody: body,
          MessageAttributes: {
            ...attributes,
            ...(code === undefined ? {} : errorAttributes(code)),
            ...(replays === undefined ? {} : { replays: number(replays) }),
          },
        }),
      );
      ids.push(sent.MessageId ?? "");
    }
    return ids;
  }

  ports(overrides: Partial<RedrivePorts> = {}): RedrivePorts {
    return {
      client: this.proxy.client(),
      config: {
        deadLetterQueueUrl: this.queue.deadLetterQueueUrl,
        completionsQueueUrl: this.queue.queueUrl,
        maxReplays: 5,
      },
      clock: this.clock,
      receiveOptions: { visibilitySeconds: 600, waitSeconds: 0 },
      maxHidden: 1_000,
      onProgress: () => undefined,
      ...overrides,
    };
  }

  /** Runs one slice of a replay with an event of the redrive function. */
  replay(
    event: Readonly<Record<string, unknown>>,
    limits: Partial<Limits> = {},
    overrides: Partial<RedrivePorts> = {},
  ): Promise<RedriveReport> {
    return redriveSlice(this.ports(overrides), parseRequest(event), { ...NO_LIMITS, ...limits });
  }

  /** Counts the visible dead letters. Throws if some are hidden. */
  async visible(): Promise<number> {
    const { visible, ...others }: QueueCounts = await this.queue.counts(this.queue.deadLetterQueueUrl);
    if (JSON.stringify(others) !== JSON.stringify(NOTHING_HIDDEN)) {
      throw new Error(`not all dead letters are visible: ${JSON.stringify(others)}`);
    }
    return visible;
  }

  /** Receives and deletes every message of a queue; the completions queue by default. */
  drain(queueUrl = this.queue.queueUrl): Promise<Message[]> {
    return drainQueue(this.client, queueUrl);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.client.destroy();
    await this.proxy[Symbol.asyncDispose]();
    await this.queue.stop();
  }
}

export function completion(flow: string): string {
  return JSON.stringify({ execution_id: `{fp:24}:${FLOW}`, flow_id: flow, outcome: "failed" });
}

export function number(value: number): MessageAttributeValue {
  return { DataType: "Number", StringValue: String(value) };
}

export function text(value: string): MessageAttributeValue {
  return { DataType: "String", StringValue: value };
}

export function errorAttributes(code: string): Record<string, MessageAttributeValue> {
  return {
    error_code: text(code),
    error_message: text("injected failure"),
    failed_at: text("2026-11-01T00:00:00.000Z"),
  };
}
