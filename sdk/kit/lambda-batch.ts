/** Runs the ready messages of one invocation of a Lambda function. */

import type { SQSBatchResponse, SQSRecord } from "aws-lambda";
import type { AnyTask } from "#sdk/kit/define-task.ts";
import {
  type Delivery,
  type DeliveryResult,
  FINISH_MS,
  type Preparation,
  WorkerEngine,
} from "#sdk/kit/engine.ts";
import type { WorkerPorts } from "#sdk/kit/ports.ts";
import type { ReadyQueues, Receipt } from "#sdk/kit/ready-queues.ts";
import type { TaskRegistry } from "#sdk/kit/registry.ts";
import { parseReadyMessage } from "#shared/ready/message.ts";
import type { Log } from "#shared/runtime/telemetry.ts";

type RunnableDelivery = Extract<Preparation, { kind: "runnable" }>;

/** Runs the executions of a batch, and returns the messages that must be delivered again. Returns by the deadline. */
export async function runLambdaBatch(
  ports: WorkerPorts & { readonly queues: ReadyQueues },
  registry: TaskRegistry,
  records: readonly SQSRecord[],
  deadlineMs: number,
): Promise<SQSBatchResponse> {
  const { log, queues } = ports;
  const invocationMs = deadlineMs - ports.now();
  const messages = records.map((record) => parseMessage(record, log));
  const deliveries = messages.filter((message) => message.delivery !== undefined);
  using engine = new WorkerEngine(ports, registry);
  const fits = ({ kind, timeoutMs }: AnyTask): boolean => {
    if (timeoutMs + FINISH_MS <= invocationMs) return true;
    log.error("task never starts: raise the timeout of the function, or lower that of the task", {
      kind,
      timeout_ms: timeoutMs,
      invocation_ms: invocationMs,
    });
    return false;
  };
  const results = await processBatch(engine, deliveries, deadlineMs, fits, (done) =>
    queues.acknowledge(done.map(receiptOf), log),
  );
  const retried = messages.flatMap((message) => {
    const result = results.get(message) ?? RETRY;
    return result.kind === "retry" ? [{ message, result }] : [];
  });
  for (const { message, result } of retried) {
    log.warn("message failed, will retry", {
      message_id: message.record.messageId,
      execution_id: message.delivery?.ready.executionId ?? "",
      reason: result.reason,
    });
  }
  await queues.delay(
    retried.flatMap(({ message, result: { afterMs } }) =>
      message.delivery === undefined || afterMs === undefined ? [] : [{ ...receiptOf(message), afterMs }],
    ),
    log,
  );
  return { batchItemFailures: retried.map(({ message }) => ({ itemIdentifier: message.record.messageId })) };
}

/** One record of the event. `delivery`: undefined if it is no ready message. */
interface WorkerMessage {
  readonly record: SQSRecord;
  readonly delivery: Delivery | undefined;
}

const RETRY: Extract<DeliveryResult, { kind: "retry" }> = { kind: "retry", reason: "it is no ready message" };
/** Delivered again at once, the message would be in the dead-letter queue within seconds. */
const NEVER_FITS: DeliveryResult = { kind: "retry", reason: "the task does not fit into an invocation" };

function parseMessage(record: SQSRecord, log: Log): WorkerMessage {
  const ready = parseReadyMessage(record);
  if (ready.ok) {
    const receiveCount = Number(record.attributes.ApproximateReceiveCount) || 1;
    return { record, delivery: { messageId: record.messageId, receiveCount, ready: ready.value } };
  }
  log.error("message is no ready message", {
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
  fits: (task: AnyTask) => boolean,
  acknowledge: (done: readonly WorkerMessage[]) => Promise<void>,
): Promise<ReadonlyMap<WorkerMessage, DeliveryResult>> {
  const results = new Map<WorkerMessage, DeliveryResult>();
  const suspects: { readonly message: WorkerMessage; readonly prepared: RunnableDelivery }[] = [];
  await Promise.all(
    messages.map(async (message) => {
      if (message.delivery === undefined) return;
      const prepared = await engine.prepare(message.delivery, deadlineMs);
      if (prepared.kind === "settled") results.set(message, prepared.result);
      else if (!fits(prepared.candidate.task)) results.set(message, NEVER_FITS);
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
