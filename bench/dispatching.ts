/** Runs the built dispatcher and the built functions on the server of a benchmark. */

import { randomUUID } from "node:crypto";
import { fileURLToPath } from "node:url";
import type { SQSEvent } from "aws-lambda";
import { expectEqual } from "#bench/benchmark.ts";
import type { Core } from "#bench/built-core.ts";
import { ROUTER } from "#bench/flows.ts";
import { FunctionProcess } from "#local/function-process.ts";
import type { FunctionOptions } from "#local/function-settings.ts";
import type { Completion } from "#shared/contract/message.ts";
import { type CompletionEvent, toBatchEntry } from "#shared/contract/message.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import type { ReadyPublisher } from "#shared/ready/publisher.ts";
import type { Telemetry } from "#shared/runtime/telemetry.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { RoundCounter } from "#test/support/round-counter.ts";

const MAX_CASCADE_DEPTH = 50;
/** Measured dispatches must succeed: a warning means that the benchmark's flow is wrong. */
const TELEMETRY: Telemetry = {
  count: () => undefined,
  info: () => undefined,
  warn: (message) => {
    throw new Error(`the dispatcher warned: ${message}`);
  },
  error: (message) => {
    throw new Error(`the dispatcher failed: ${message}`);
  },
};

/** The part of the Valkey client that the dispatcher uses. */
export type Client = Pick<Valkey, "pipelined" | "call">;

export type Dispatch = (events: readonly CompletionEvent[]) => Promise<void>;

/** Dispatches a batch, and throws when one of its messages would be retried. */
export function dispatcher(
  core: Core,
  valkey: Client,
  publisher: CompletionPublisher,
  ready?: ReadyPublisher,
): Dispatch {
  return async (events) => {
    const results = await core.dispatch(
      {
        valkey,
        publisher,
        ready,
        router: ROUTER,
        telemetry: TELEMETRY,
        maxCascadeDepth: MAX_CASCADE_DEPTH,
        deadlineMs: Number.POSITIVE_INFINITY,
        now: Date.now,
        ensureLibrary: () => Promise.reject(new Error("the server lacks the library")),
      },
      events,
    );
    for (const result of results) if (result.kind === "failed") throw result.errors[0];
  };
}

export interface Traffic {
  readonly rounds: number;
  readonly commands: number;
}

/** Dispatches once and counts commands. Throws if the number of round trips is not `expectedRounds`. */
export async function dispatchCounted(
  core: Core,
  valkey: Client,
  publisher: CompletionPublisher,
  events: readonly CompletionEvent[],
  expectedRounds: number,
): Promise<Traffic> {
  let commands = 0;
  const counter = new RoundCounter({
    pipelined: (batch) => {
      commands += batch.length;
      return valkey.pipelined(batch);
    },
    call: (name, ...args) => {
      commands += 1;
      return valkey.call(name, ...args);
    },
  });
  await dispatcher(core, counter, publisher)(events);
  expectEqual("round trips", counter.rounds, expectedRounds);
  return { rounds: counter.rounds, commands };
}

const BUNDLES = {
  dispatch: fileURLToPath(new URL("../dist/dispatch/index.mjs", import.meta.url)),
  reconcile: fileURLToPath(new URL("../dist/reconcile/index.mjs", import.meta.url)),
};

export interface FunctionSettings {
  readonly name: keyof typeof BUNDLES;
  readonly valkeyUrl: URL;
  /** The completions queue. Without it, a function that sends messages fails. */
  readonly queue?: { readonly queueUrl: string; readonly environment: Readonly<Record<string, string>> };
  readonly onOutput?: (text: string) => void;
  readonly environment?: Readonly<Record<string, string>>;
}

/** The options to run a built function. */
export function functionOptions(settings: FunctionSettings): FunctionOptions {
  const { name, valkeyUrl, queue, onOutput = () => undefined, environment = {} } = settings;
  return {
    functionName: `sluice-${name}`,
    bundle: BUNDLES[name],
    timeoutMs: 300_000,
    onOutput,
    environment: {
      AWS_REGION: "us-east-1",
      AWS_ACCESS_KEY_ID: "none",
      AWS_SECRET_ACCESS_KEY: "none",
      ...queue?.environment,
      VALKEY_URL: valkeyUrl.href,
      COMPLETIONS_QUEUE_URL: queue?.queueUrl ?? "http://127.0.0.1:9/000000000000/none",
      ...environment,
    },
  };
}

export function startFunction(settings: FunctionSettings): FunctionProcess {
  return new FunctionProcess(functionOptions(settings));
}

/** Converts completions to the event that Lambda passes to the function. */
export function sqsEventOf(completions: readonly Completion[]): SQSEvent {
  return {
    Records: completions.map((completion, index) => ({
      messageId: randomUUID(),
      receiptHandle: String(index),
      body: toBatchEntry(completion, String(index)).MessageBody ?? "",
      attributes: {
        ApproximateReceiveCount: "1",
        SentTimestamp: "0",
        SenderId: "bench",
        ApproximateFirstReceiveTimestamp: "0",
      },
      messageAttributes: {
        depth: { dataType: "Number", stringValue: String(completion.depth) },
        root: { dataType: "String", stringValue: completion.root },
      },
      md5OfBody: "",
      eventSource: "aws:sqs",
      eventSourceARN: "arn:aws:sqs:us-east-1:000000000000:completions",
      awsRegion: "us-east-1",
    })),
  };
}

/** Invokes the function with the completions. Throws if one of them would be retried. */
export async function invoke(fn: FunctionProcess, completions: readonly Completion[]): Promise<void> {
  const answer = await fn.invoke(sqsEventOf(completions));
  expectEqual("the function's response", JSON.stringify(answer), '{"batchItemFailures":[]}');
}
