/**
 * The dispatch function: SQS hands it completed executions, it deals with their children in Valkey, and
 * tells SQS which messages must come again.
 */

import { injectLambdaContext } from "@aws-lambda-powertools/logger/middleware";
import { logMetrics } from "@aws-lambda-powertools/metrics/middleware";
import middy from "@middy/core";
import type { Context, SQSBatchResponse, SQSEvent, SQSRecord } from "aws-lambda";
import { readDispatchConfig } from "#functions/dispatch/config.ts";
import { INVARIANT_VIOLATION, judge } from "#functions/dispatch/verdict.ts";
import type { Edition } from "#shared/contract/edition.ts";
import { type CompletionEvent, parseCompletionEvent } from "#shared/contract/message.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { dispatch } from "#shared/dispatch/dispatcher.ts";
import { describeError, type SluiceError, ValkeyError } from "#shared/errors.ts";
import { BatchSender } from "#shared/queue/batch-sender.ts";
import { queueClient } from "#shared/queue/client.ts";
import { sendToDeadLetters } from "#shared/queue/dead-letters.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { createPowertools } from "#shared/runtime/powertools.ts";
import { METRICS, traceFields } from "#shared/runtime/telemetry.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary as loadLibrary } from "#shared/valkey/library.ts";
import type { Session } from "#shared/valkey/session.ts";
import { createSessions, detectEdition } from "#shared/valkey/start-up.ts";
import { TimedValkey } from "#shared/valkey/timed.ts";

const { logger, messageLogger, metrics, telemetry } = createPowertools("dispatch");
const config = readDispatchConfig(process.env);
const router = new PartitionRouter(config.partitions);
const sqs = queueClient();
const publisher = new SqsCompletionPublisher(sqs, config.completionsQueueUrl);
const deadLetters =
  config.deadLetterQueueUrl === undefined ? undefined : new BatchSender(sqs, config.deadLetterQueueUrl);
const sessions = createSessions(config, telemetry, (valkey) =>
  detectEdition(valkey, config, () => ensureLibrary(valkey), telemetry),
);
/** What an invocation needs to answer after its last window: logs, metrics, the reply itself. */
const MARGIN_MS = 1_000;

/** `detectedEdition`: the edition to load where no primary has any. */
async function ensureLibrary(valkey: Valkey, detectedEdition?: Edition): Promise<void> {
  const state = await loadLibrary(valkey, config.edition, detectedEdition);
  telemetry.info("looked for the Valkey library", { state });
}

/** One message of the batch: what it says, and why it is not done. */
interface Delivery {
  readonly record: SQSRecord;
  readonly event: CompletionEvent | undefined;
  errors: readonly SluiceError[];
  mustComeAgain: boolean;
}

function receive(record: SQSRecord): Delivery {
  const parsed = parseCompletionEvent(record);
  if (parsed.ok) return { record, event: parsed.value, errors: [], mustComeAgain: false };
  telemetry.count(METRICS.messagesMalformed);
  return { record, event: undefined, errors: [parsed.error], mustComeAgain: false };
}

async function handleBatch({ Records }: SQSEvent, context: Context): Promise<SQSBatchResponse> {
  const deadlineMs = Date.now() + context.getRemainingTimeInMillis() - MARGIN_MS;
  const deliveries = Records.map(receive);
  const depths = deliveries.flatMap(({ event }) => event?.depth ?? []);
  if (depths.length > 0) telemetry.measure(METRICS.cascadeDepth, Math.max(...depths));
  await dispatchReadable(deliveries, deadlineMs);
  const failed = deliveries.filter((delivery) => delivery.errors.length > 0);
  // Half of the margin is its own: what a retry cannot help must not come again for want of time.
  await bury(failed, deadlineMs + MARGIN_MS / 2);
  for (const delivery of deliveries) report(delivery);
  telemetry.count(METRICS.completionsDispatched, deliveries.length - failed.length);
  return {
    batchItemFailures: failed
      .filter(({ mustComeAgain }) => mustComeAgain)
      .map(({ record }) => ({ itemIdentifier: record.messageId })),
  };
}

async function dispatchReadable(deliveries: readonly Delivery[], deadlineMs: number): Promise<void> {
  const readable = deliveries.flatMap((delivery) =>
    delivery.event === undefined ? [] : [{ delivery, event: delivery.event }],
  );
  let session: Session<Edition>;
  try {
    session = await sessions.get();
  } catch (error) {
    // Thrown, it slows the event source down, which is right; but what no retry can help is not to wait for Valkey.
    if (readable.length === deliveries.length) throw error;
    const fault = new ValkeyError("there is no usable Valkey", { cause: error });
    for (const { delivery } of readable) delivery.errors = [fault];
    return;
  }
  const { valkey, startupInfo: edition } = session;
  const timed = new TimedValkey(valkey);
  const errors = await dispatch(
    {
      valkey: timed,
      router,
      publisher,
      edition,
      telemetry,
      deadlineMs,
      ensureLibrary: () => ensureLibrary(valkey, edition),
      maxCascadeDepth: config.maxCascadeDepth,
      now: Date.now,
    },
    readable.map(({ event }) => event),
  );
  if (timed.slowestMs !== undefined) telemetry.measure(METRICS.valkeyLatency, timed.slowestMs);
  for (const [position, { delivery }] of readable.entries()) delivery.errors = errors[position] ?? [];
}

/** Sends what no retry can help to the dead letters. What does not get there comes again: nothing is lost. */
async function bury(failed: readonly Delivery[], deadlineMs: number): Promise<void> {
  const letters: { readonly delivery: Delivery; readonly error: SluiceError }[] = [];
  for (const delivery of failed) {
    const { deadLetter, mustComeAgain } = judge(delivery.errors);
    delivery.mustComeAgain = mustComeAgain || deadLetter !== undefined;
    if (deadLetter !== undefined) letters.push({ delivery, error: deadLetter });
    if (deadLetter?.code === INVARIANT_VIOLATION) telemetry.count(METRICS.invariantViolations);
  }
  if (deadLetters === undefined || letters.length === 0) return;
  const failedAt = new Date();
  const results = await sendToDeadLetters(
    deadLetters,
    letters.map(({ delivery: { record }, error }) => ({ record, error, failedAt })),
    deadlineMs,
  );
  for (const [position, { delivery }] of letters.entries()) {
    const result = results[position];
    if (result?.ok) {
      telemetry.count(METRICS.messagesDeadLettered);
      delivery.mustComeAgain = judge(delivery.errors).mustComeAgain;
    } else if (result) delivery.errors = [...delivery.errors, result.error];
  }
}

const ERRORS_SHOWN = 10;

/** One line for each message, so that one query for a root shows its cascade. */
function report({ record, event, errors, mustComeAgain }: Delivery): void {
  const fields = { message_id: record.messageId, ...(event && traceFields(event)) };
  if (errors.length === 0) {
    messageLogger.info("the message is done", fields);
    return;
  }
  if (mustComeAgain) telemetry.count(METRICS.messagesFailed);
  telemetry.error(mustComeAgain ? "the message must come again" : "the message is a dead letter", {
    ...fields,
    receive_count: Number(record.attributes.ApproximateReceiveCount),
    errors: errors.slice(0, ERRORS_SHOWN).map(describeError),
    error_count: errors.length,
  });
}

export const handler = middy<SQSEvent, SQSBatchResponse>()
  .use(injectLambdaContext(logger))
  .use(logMetrics(metrics))
  .handler(handleBatch);
