import { randomUUID } from "node:crypto";
import { injectLambdaContext } from "@aws-lambda-powertools/logger/middleware";
import { logMetrics } from "@aws-lambda-powertools/metrics/middleware";
import middy, { type MiddlewareObj } from "@middy/core";
import type { Context, SQSBatchResponse, SQSEvent, SQSRecord } from "aws-lambda";
import { readWorkerConfig, type WorkerConfig } from "#sdk/kit/config.ts";
import type { AnyTask } from "#sdk/kit/define-task.ts";
import { type Delivery, type DeliveryResult, type Preparation, WorkerEngine } from "#sdk/kit/engine.ts";
import { inlineDispatch } from "#sdk/kit/inline-dispatch.ts";
import { ReadyQueues, type Receipt } from "#sdk/kit/ready-queues.ts";
import { TaskRegistry } from "#sdk/kit/registry.ts";
import { EmbeddedTaskMetrics } from "#sdk/kit/task-metrics.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { queueClient } from "#shared/queue/client.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { parseReadyMessage } from "#shared/ready/message.ts";
import { SqsReadyPublisher } from "#shared/ready/publisher.ts";
import type { Environment } from "#shared/runtime/environment.ts";
import { createPowertools } from "#shared/runtime/powertools.ts";
import type { Log } from "#shared/runtime/telemetry.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { createSessions, detectEdition } from "#shared/valkey/start-up.ts";

/** The options of `lambdaWorker`. */
export interface LambdaWorkerOptions {
  /** The tasks that this function runs. Their lanes are those whose queues trigger it. */
  readonly tasks: readonly AnyTask[];
  /**
   * Where the children of an ended execution are updated. `inline`, the default: in this invocation, which saves a message and
   * an invocation per task. `queue`: by the dispatch function.
   */
  readonly dispatch?: "inline" | "queue";
  /** The variables of docs/configuration.md. Default: `process.env`. */
  readonly environment?: Environment;
  /** Middleware of middy around each invocation. */
  readonly middleware?: readonly MiddlewareObj<SQSEvent, SQSBatchResponse>[];
}

type RunnableDelivery = Extract<Preparation, { kind: "runnable" }>;

/** A handler for an SQS event source mapping with `ReportBatchItemFailures`. */
export type LambdaWorkerHandler = (event: SQSEvent, context: Context) => Promise<SQSBatchResponse>;

/** Reserved to answer, in milliseconds. */
const MARGIN_MS = 1_000;
const DEFAULT_STAGE = "local";

/**
 * Creates a Lambda handler that runs tasks. Its event sources are the ready queues of the tasks' lanes, with
 * `ReportBatchItemFailures`.
 *
 * Each invocation claims the executions of its messages, runs their tasks at once, writes their outcomes, updates their
 * children, and acknowledges last: an invocation that dies leaves messages that the queue delivers again.
 *
 * Create it once, outside of the handler, so that invocations share its connections.
 *
 * @throws ConfigurationError that lists every missing or invalid variable.
 *
 * @example
 * export const handler = lambdaWorker({ tasks: [resize] });
 */
export function lambdaWorker(options: LambdaWorkerOptions): LambdaWorkerHandler {
  const { tasks, dispatch = "inline", environment = process.env, middleware = [] } = options;
  const registry = new TaskRegistry(tasks);
  const config = readWorkerConfig(environment, registry, { needsReadyQueues: true });
  const { logger, metrics, telemetry } = createPowertools("worker");
  const taskMetrics = new EmbeddedTaskMetrics(environment.SLUICE_STAGE || DEFAULT_STAGE);
  const router = new PartitionRouter(config.partitions);
  const sqs = queueClient();
  const completions = new SqsCompletionPublisher(sqs, config.completionsQueueUrl);
  const ready = new SqsReadyPublisher(sqs, config.readyQueueUrls);
  const queues = new ReadyQueues(sqs, config.readyQueueUrls);
  const identity = { workerId: environment.AWS_LAMBDA_FUNCTION_NAME ?? "worker", instanceId: randomUUID() };
  const sessions = createSessions(config, telemetry, (valkey) =>
    detectEdition(valkey, config, () => loadLibrary(config, valkey), telemetry),
  );

  const handleBatch = async (event: SQSEvent, context: Context): Promise<SQSBatchResponse> => {
    const deadlineMs = Date.now() + context.getRemainingTimeInMillis() - MARGIN_MS;
    const { valkey } = await sessions.get();
    const messages = event.Records.map((record) => parseMessage(record, telemetry));
    const deliveries = messages.filter((message) => message.delivery !== undefined);
    using engine = new WorkerEngine(
      {
        valkey,
        router,
        identity,
        completions,
        ready,
        dispatch:
          dispatch === "queue"
            ? undefined
            : inlineDispatch({
                valkey,
                router,
                publisher: completions,
                ready,
                telemetry,
                ensureLibrary: () => loadLibrary(config, valkey),
                now: Date.now,
              }),
        log: telemetry,
        metrics: taskMetrics,
        now: Date.now,
      },
      registry,
    );
    const results = await processBatch(engine, deliveries, deadlineMs, (done) =>
      queues.acknowledge(done.map(receiptOf), telemetry),
    );
    const retried = messages.flatMap((message) => {
      const result = results.get(message) ?? RETRY;
      return result.kind === "retry" ? [{ message, result }] : [];
    });
    for (const { message, result } of retried) {
      telemetry.warn("message failed, will retry", {
        message_id: message.record.messageId,
        execution_id: message.delivery?.ready.executionId ?? "",
        reason: result.reason,
      });
    }
    await queues.delay(
      retried.flatMap(({ message, result: { afterMs } }) =>
        message.delivery === undefined || afterMs === undefined ? [] : [{ ...receiptOf(message), afterMs }],
      ),
      telemetry,
    );
    taskMetrics.publish();
    return {
      batchItemFailures: retried.map(({ message }) => ({ itemIdentifier: message.record.messageId })),
    };
  };

  const handler = middy<SQSEvent, SQSBatchResponse>()
    .use(injectLambdaContext(logger))
    .use(logMetrics(metrics));
  for (const one of middleware) handler.use(one);
  return handler.handler(handleBatch);
}

/** One record of the event. `delivery`: undefined if it is no ready message. */
interface WorkerMessage {
  readonly record: SQSRecord;
  readonly delivery: Delivery | undefined;
}

const RETRY: Extract<DeliveryResult, { kind: "retry" }> = { kind: "retry", reason: "it is no ready message" };

function parseMessage(record: SQSRecord, telemetry: Log): WorkerMessage {
  const ready = parseReadyMessage(record);
  if (ready.ok) {
    const receiveCount = Number(record.attributes.ApproximateReceiveCount) || 1;
    return { record, delivery: { messageId: record.messageId, receiveCount, ready: ready.value } };
  }
  telemetry.error("message is no ready message", {
    message_id: record.messageId,
    reason: ready.error.message,
  });
  return { record, delivery: undefined };
}

function receiptOf({ record, delivery }: WorkerMessage): Receipt {
  if (delivery === undefined) throw new RangeError("a message without an execution has no lane");
  return { lane: delivery.ready.lane, receiptHandle: record.receiptHandle };
}

/**
 * Runs all executions at once. Those that a worker lost before run last and alone, after the finished messages were deleted:
 * one of them may end this process too.
 */
async function processBatch(
  engine: WorkerEngine,
  messages: readonly WorkerMessage[],
  deadlineMs: number,
  acknowledge: (done: readonly WorkerMessage[]) => Promise<void>,
): Promise<ReadonlyMap<WorkerMessage, DeliveryResult>> {
  const results = new Map<WorkerMessage, DeliveryResult>();
  const suspects: { readonly message: WorkerMessage; readonly prepared: RunnableDelivery }[] = [];
  await Promise.all(
    messages.map(async (message) => {
      if (message.delivery === undefined) return;
      const prepared = await engine.prepare(message.delivery, deadlineMs);
      if (prepared.kind === "settled") results.set(message, prepared.result);
      else if (prepared.isSuspect) suspects.push({ message, prepared });
      else results.set(message, await engine.run(prepared, deadlineMs));
    }),
  );
  if (suspects.length > 0) {
    await acknowledge(messages.filter((message) => results.get(message)?.kind === "done"));
  }
  for (const { message, prepared } of suspects) results.set(message, await engine.run(prepared, deadlineMs));
  return results;
}

async function loadLibrary({ edition }: WorkerConfig, valkey: Valkey): Promise<void> {
  await ensureLibrary(valkey, edition);
}
