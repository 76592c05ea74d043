/**
 * What a worker sends to Valkey and to the queues, until its death. It runs in the process of the harness and shares its
 * connections: what ends with it is everything that it would send later. To Valkey and the queues, that is a killed process.
 */

import { setTimeout as sleep } from "node:timers/promises";
import {
  ChangeMessageVisibilityBatchCommand,
  DeleteMessageBatchCommand,
  type Message,
  ReceiveMessageCommand,
} from "@aws-sdk/client-sqs";
import type { Pipelines, ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";
import type { QueueClient } from "#shared/queue/client.ts";
import type { TestBed } from "#test/faults/test-bed.ts";

/** When the worker dies: around one of its calls, counted from 0. `during`: after the first half of a pipeline. */
export interface Death {
  readonly call: number;
  readonly timing: "before" | "during" | "after";
}

/** An idle lane asks again after this pause instead of waiting for messages. */
const IDLE_MS = 2;

export class MortalWorker implements Pipelines, QueueClient {
  /** Resolves when the worker dies. */
  readonly death: Promise<void>;
  /** The call around which it died. */
  diedAt: string | undefined;
  /** Called when no message was received, with the number of receives so far. */
  onEmpty: (receives: number) => void = () => undefined;
  readonly #bed: TestBed;
  readonly #at: Death | undefined;
  readonly #receiveReady: (max: number) => Promise<readonly Message[]>;
  readonly #died = Promise.withResolvers<void>();
  readonly #held = new Map<string, string>();
  #calls = 0;
  #receives = 0;

  /** `at`: undefined for a worker that lives. `receive` returns the messages that reach the worker. */
  constructor(bed: TestBed, at: Death | undefined, receive: (max: number) => Promise<readonly Message[]>) {
    this.#bed = bed;
    this.#at = at;
    this.#receiveReady = receive;
    this.death = this.#died.promise;
  }

  pipelined(commands: readonly ValkeyCommand[]): Promise<ValkeyResult[]> {
    const name = [
      ...new Set(commands.map(({ args: [first = ""], name: own }) => (own === "fcall" ? first : own))),
    ];
    return this.#pass(
      `pipeline ${name.join(" ")}`,
      () => this.#bed.valkey.pipelined(commands),
      () => this.#bed.valkey.pipelined(commands.slice(0, Math.ceil(commands.length / 2))),
    );
  }

  send: QueueClient["send"] = async (command, options) => {
    if (command instanceof ReceiveMessageCommand) {
      const received = await this.#pass("receive", () => this.#receive(command));
      // The type of the response belongs to the command.
      return { Messages: received } as never;
    }
    const response = await this.#pass(command.constructor.name, () =>
      this.#bed.sqs.send(
        command,
        options?.abortSignal === undefined ? {} : { abortSignal: options.abortSignal },
      ),
    );
    if (command instanceof DeleteMessageBatchCommand) {
      for (const { ReceiptHandle: handle = "" } of command.input.Entries ?? []) this.#held.delete(handle);
    }
    return response;
  };

  /** Makes the messages that it received and did not delete visible again, as at the end of their visibility timeout. */
  async releaseMessages(): Promise<void> {
    for (const [handle, queueUrl] of this.#held) {
      await this.#bed.sqs.send(
        new ChangeMessageVisibilityBatchCommand({
          QueueUrl: queueUrl,
          Entries: [{ Id: "0", ReceiptHandle: handle, VisibilityTimeout: 0 }],
        }),
      );
    }
    this.#held.clear();
  }

  async #receive({ input }: ReceiveMessageCommand): Promise<readonly Message[]> {
    const messages = await this.#receiveReady(input.MaxNumberOfMessages ?? 1);
    for (const { ReceiptHandle: handle = "" } of messages) this.#held.set(handle, input.QueueUrl ?? "");
    this.#receives += 1;
    if (messages.length === 0) {
      await sleep(IDLE_MS);
      this.onEmpty(this.#receives);
    }
    return messages;
  }

  async #pass<T>(name: string, send: () => Promise<T>, sendHalf?: () => Promise<unknown>): Promise<T> {
    const never = new Promise<never>(() => undefined);
    if (this.diedAt !== undefined) return never;
    const timing = this.#calls === this.#at?.call ? this.#at.timing : undefined;
    this.#calls += 1;
    if (timing === undefined) {
      const result = await send();
      // It died around another call meanwhile.
      return this.diedAt === undefined ? result : never;
    }
    if (timing === "during" && sendHalf !== undefined) await sendHalf();
    if (timing === "after") await send();
    this.diedAt = `${timing} ${name}`;
    this.#died.resolve();
    return never;
  }
}
