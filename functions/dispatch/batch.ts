/** Processes one batch: parses and dispatches its messages, sends dead letters, and returns the messages to retry. */

import type { SQSBatchResponse, SQSRecord } from "aws-lambda";
import { classifyFailures, INVARIANT_VIOLATION } from "#functions/dispatch/disposition.ts";
import { type CompletionEvent, parseCompletionEvent } from "#shared/contract/message.ts";
import { pairResults } from "#shared/contract/results.ts";
import type { DispatchResult } from "#shared/dispatch/types.ts";
import { describeError, PublishError, type SluiceError, ValkeyError } from "#shared/errors.ts";
import type { BatchSender } from "#shared/queue/batch-sender.ts";
import { sendToDeadLetterQueue } from "#shared/queue/dead-letters.ts";
import {
  type GaugingTelemetry,
  type Log,
  METRICS,
  type MetricName,
  traceFields,
} from "#shared/runtime/telemetry.ts";

export interface BatchPorts {
  /** Dispatches events until the deadline (milliseconds since the epoch). Rejects if Valkey is unavailable. */
  readonly dispatch: (events: readonly CompletionEvent[], deadlineMs: number) => Promise<DispatchResult[]>;
  /** Undefined: a message that cannot succeed is retried too, until the redrive policy of the queue dead-letters it. */
  readonly deadLetterQueue: Pick<BatchSender, "send"> | undefined;
  readonly telemetry: GaugingTelemetry;
  /** Logs one line per processed message. */
  readonly messageLogger: Pick<Log, "info">;
}

/** Reserved after the deadline to send dead letters, in milliseconds. */
const DEAD_LETTER_MS = 500;
const ERRORS_SHOWN = 10;

/** A message and its result. */
interface MessageOutcome {
  readonly record: SQSRecord;
  /** Undefined when the message is not a completion event. */
  readonly event: CompletionEvent | undefined;
  readonly result: DispatchResult;
}

/**
 * Processes a batch by `deadlineMs` (milliseconds since the epoch), plus half a second for dead letters. Returns the
 * messages to retry.
 *
 * Rejects only if Valkey is unavailable and every message needs it. Lambda then polls the queue more slowly, as it does
 * after every failed invocation.
 */
export async function processBatch(
  ports: BatchPorts,
  records: readonly SQSRecord[],
  deadlineMs: number,
): Promise<SQSBatchResponse> {
  const messages = records.map(parseMessage);
  const { telemetry } = ports;
  countAny(telemetry, METRICS.messagesMalformed, messages.filter(({ event }) => event === undefined).length);
  const depths = messages.flatMap(({ event }) => event?.depth ?? []);
  if (depths.length > 0) telemetry.measure(METRICS.cascadeDepth, Math.max(...depths));
  const outcomes = await dispatchMessages(ports, messages, deadlineMs);
  const retried = await deadLetterOrRetry(ports, outcomes, deadlineMs + DEAD_LETTER_MS);
  telemetry.count(
    METRICS.completionsDispatched,
    outcomes.filter(({ result }) => result.kind === "dispatched").length,
  );
  return { batchItemFailures: retried.map(({ messageId }) => ({ itemIdentifier: messageId })) };
}

type ParsedMessage =
  | { readonly record: SQSRecord; readonly event: CompletionEvent }
  | { readonly record: SQSRecord; readonly event: undefined; readonly error: SluiceError };

function parseMessage(record: SQSRecord): ParsedMessage {
  const parsed = parseCompletionEvent(record);
  return parsed.ok ? { record, event: parsed.value } : { record, event: undefined, error: parsed.error };
}

/** Dispatches the messages that parsed. Returns one outcome per message, malformed ones included, in their order. */
async function dispatchMessages(
  ports: BatchPorts,
  messages: readonly ParsedMessage[],
  deadlineMs: number,
): Promise<MessageOutcome[]> {
  const readable = messages.filter((message) => message.event !== undefined);
  const results = await dispatchEvents(
    ports,
    readable.map(({ event }) => event),
    deadlineMs,
    readable.length === messages.length,
  );
  const resultOf = new Map(
    pairResults(readable, results, ({ event }) =>
      failedWith(new ValkeyError(`the dispatcher returned no result for ${event.executionId}`)),
    ).map(({ item, result }) => [item.record, result]),
  );
  return messages.map((message): MessageOutcome => {
    const { record, event } = message;
    if (event === undefined) return { record, event, result: failedWith(message.error) };
    return {
      record,
      event,
      result: resultOf.get(record) ?? failedWith(new ValkeyError("the message was not dispatched")),
    };
  });
}

async function dispatchEvents(
  ports: BatchPorts,
  events: readonly CompletionEvent[],
  deadlineMs: number,
  isWholeBatch: boolean,
): Promise<DispatchResult[]> {
  try {
    return await ports.dispatch(events, deadlineMs);
  } catch (error) {
    // Malformed messages need no Valkey: do not reject, so that they are dead-lettered.
    if (isWholeBatch) throw error;
    return events.map(() => failedWith(new ValkeyError("Valkey is unavailable", { cause: error })));
  }
}

function failedWith(error: SluiceError): DispatchResult {
  return { kind: "failed", errors: [error] };
}

/**
 * Sends the messages that cannot succeed to the dead-letter queue, and logs one line per message. Returns the messages to
 * retry. A message that the dead-letter queue did not accept is retried, so that it is not lost.
 */
async function deadLetterOrRetry(
  { deadLetterQueue, telemetry, messageLogger }: BatchPorts,
  outcomes: readonly MessageOutcome[],
  deadlineMs: number,
): Promise<SQSRecord[]> {
  const failures = outcomes.flatMap(({ record, event, result }) =>
    result.kind === "failed"
      ? [{ record, event, errors: result.errors, ...classifyFailures(result.errors) }]
      : [],
  );
  const violations = failures.filter(({ deadLetter }) => deadLetter?.code === INVARIANT_VIOLATION);
  countAny(telemetry, METRICS.invariantViolations, violations.length);
  const failedAt = new Date();
  const letters = failures.flatMap(({ record, deadLetter }) =>
    deadLetter === undefined ? [] : [{ record, error: deadLetter, failedAt }],
  );
  const sendErrors = new Map<SQSRecord, SluiceError | undefined>();
  if (deadLetterQueue !== undefined) {
    const sent = await sendToDeadLetterQueue(deadLetterQueue, letters, deadlineMs);
    for (const { item, result } of pairResults(letters, sent, () => ({
      ok: false as const,
      error: new PublishError("the dead-letter queue returned no result"),
    }))) {
      sendErrors.set(item.record, result.ok ? undefined : result.error);
    }
    countAny(telemetry, METRICS.messagesDeadLettered, sent.filter(({ ok }) => ok).length);
  }

  const retried: SQSRecord[] = [];
  for (const { record, event, errors, deadLetter, retry } of failures) {
    const sendError = sendErrors.get(record);
    const isDeadLettered = deadLetter !== undefined && sendErrors.has(record) && sendError === undefined;
    const isRetried = retry || !isDeadLettered;
    if (isRetried) {
      retried.push(record);
      telemetry.count(METRICS.messagesFailed);
    }
    const all = sendError === undefined ? errors : [...errors, sendError];
    telemetry.error(isRetried ? "message failed, will retry" : "message dead-lettered", {
      ...fieldsOf(record, event),
      receive_count: Number(record.attributes.ApproximateReceiveCount),
      errors: all.slice(0, ERRORS_SHOWN).map(describeError),
      error_count: all.length,
    });
  }
  for (const { record, event, result } of outcomes) {
    if (result.kind !== "failed") messageLogger.info("message processed", fieldsOf(record, event));
  }
  return retried;
}

function fieldsOf(record: SQSRecord, event: CompletionEvent | undefined) {
  return { message_id: record.messageId, ...(event && traceFields(event)) };
}

/** Emits no metric for a count of 0. */
function countAny(telemetry: GaugingTelemetry, metric: MetricName, value: number): void {
  if (value > 0) telemetry.count(metric, value);
}
