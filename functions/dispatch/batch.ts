/** Processes one batch: parses and dispatches its messages, sends dead letters, and returns the messages to retry. */

import { classifyFailures, INVARIANT_VIOLATION } from "#functions/dispatch/disposition.ts";
import { isIdentified } from "#functions/dispatch/event.ts";
import { type CompletionEvent, isObject, parseCompletionEvent } from "#shared/contract/message.ts";
import { pairResults } from "#shared/contract/results.ts";
import type { DispatchResult } from "#shared/dispatch/types.ts";
import {
  describeError,
  MalformedMessageError,
  PublishError,
  type SluiceError,
  ValkeyError,
} from "#shared/errors.ts";
import type { BatchSender } from "#shared/queue/batch-sender.ts";
import { sendToDeadLetterQueue } from "#shared/queue/dead-letters.ts";
import {
  type GaugingTelemetry,
  type Log,
  type LogFields,
  METRICS,
  type MetricName,
  traceFields,
} from "#shared/runtime/telemetry.ts";

/** Lambda's partial batch response. */
export interface BatchResponse {
  /** The messages that SQS must deliver again. */
  readonly batchItemFailures: { readonly itemIdentifier: string }[];
}

export interface BatchPorts {
  /** Dispatches events until the deadline (milliseconds since the epoch). Rejects if Valkey is unavailable. */
  readonly dispatch: (events: readonly CompletionEvent[], deadlineMs: number) => Promise<DispatchResult[]>;
  /** Undefined: a message that cannot succeed is retried too, until the redrive policy of the queue dead-letters it. */
  readonly deadLetterQueue: Pick<BatchSender, "send"> | undefined;
  /** Depths above it are not measured. */
  readonly maxCascadeDepth: number;
  readonly telemetry: GaugingTelemetry;
  /** Logs one line per processed message. */
  readonly messageLogger: Pick<Log, "info">;
}

/** Reserved after the deadline to send dead letters, in milliseconds. */
const DEAD_LETTER_MS = 500;
const ERRORS_SHOWN = 10;

/** A message and its result. */
interface MessageOutcome extends ParsedMessage {
  readonly result: DispatchResult;
}

/**
 * Processes a batch by `deadlineMs` (milliseconds since the epoch), plus half a second for dead letters. Returns the
 * messages to retry. A record with malformed content does not affect the other records.
 *
 * Rejects only if Valkey is unavailable and every message needs it. Lambda then polls the queue more slowly, as it does
 * after every failed invocation.
 */
export async function processBatch(
  ports: BatchPorts,
  records: readonly unknown[],
  deadlineMs: number,
): Promise<BatchResponse> {
  const messages = records.map(parseMessage);
  const { telemetry, maxCascadeDepth } = ports;
  countAny(telemetry, METRICS.messagesMalformed, messages.filter(({ event }) => event === undefined).length);
  // Depths above the limit may be forged: `DepthLimitReached` counts them, and they are not measured.
  const depths = messages
    .flatMap(({ event }) => event?.depth ?? [])
    .filter((depth) => depth <= maxCascadeDepth);
  if (depths.length > 0)
    telemetry.measure(
      METRICS.cascadeDepth,
      depths.reduce((one, other) => Math.max(one, other)),
    );
  const outcomes = await dispatchMessages(ports, messages, deadlineMs);
  const retried = await deadLetterOrRetry(ports, outcomes, deadlineMs + DEAD_LETTER_MS);
  telemetry.count(
    METRICS.completionsDispatched,
    outcomes.filter(({ result }) => result.kind === "dispatched").length,
  );
  return { batchItemFailures: retried.map((itemIdentifier) => ({ itemIdentifier })) };
}

interface ParsedMessage {
  readonly record: unknown;
  /** Undefined: the response cannot name the record, and SQS cannot have sent it. */
  readonly messageId: string | undefined;
  /** The event, or why the message is no completion event. */
  readonly content: CompletionEvent | SluiceError;
  readonly event: CompletionEvent | undefined;
}

function parseMessage(record: unknown): ParsedMessage {
  const messageId = isIdentified(record) ? record.messageId : undefined;
  const content = messageId === undefined ? new MalformedMessageError(NO_ID) : contentOf(record);
  return { record, messageId, content, event: content instanceof Error ? undefined : content };
}

const NO_ID = "not an SQS record: it has no messageId";

function contentOf(record: unknown): CompletionEvent | SluiceError {
  try {
    const parsed = parseCompletionEvent(record);
    return parsed.ok ? parsed.value : parsed.error;
  } catch (error) {
    return new MalformedMessageError("the record cannot be read", { cause: error });
  }
}

/** Dispatches the messages that parsed. Returns one outcome per message, malformed ones included, in their order. */
async function dispatchMessages(
  ports: BatchPorts,
  messages: readonly ParsedMessage[],
  deadlineMs: number,
): Promise<MessageOutcome[]> {
  const readable = messages.flatMap((message) =>
    message.event === undefined ? [] : [{ message, event: message.event }],
  );
  const results = await dispatchEvents(
    ports,
    readable.map(({ event }) => event),
    deadlineMs,
    readable.length === messages.length,
  );
  const resultOf = new Map(
    pairResults(readable, results, ({ event }) =>
      failedWith(new ValkeyError(`the dispatcher returned no result for ${event.executionId}`)),
    ).map(({ item, result }) => [item.message, result]),
  );
  return messages.map((message): MessageOutcome => {
    const { content } = message;
    const result =
      content instanceof Error
        ? failedWith(content)
        : (resultOf.get(message) ?? failedWith(new ValkeyError("the message was not dispatched")));
    return { ...message, result };
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
 * Sends the messages that cannot succeed to the dead-letter queue, and logs one line per message. Returns the ids of
 * the messages to retry. A message that the dead-letter queue did not accept is retried, so that it is not lost.
 */
async function deadLetterOrRetry(
  { deadLetterQueue, telemetry, messageLogger }: BatchPorts,
  outcomes: readonly MessageOutcome[],
  deadlineMs: number,
): Promise<string[]> {
  const failures = outcomes.flatMap((message) =>
    message.result.kind === "failed"
      ? [{ message, errors: message.result.errors, ...classifyFailures(message.result.errors) }]
      : [],
  );
  const violations = failures.filter(({ deadLetter }) => deadLetter?.code === INVARIANT_VIOLATION);
  countAny(telemetry, METRICS.invariantViolations, violations.length);
  const failedAt = new Date();
  const letters = failures.flatMap(({ message, deadLetter }) =>
    deadLetter === undefined ? [] : [{ message, record: message.record, error: deadLetter, failedAt }],
  );
  const sendErrors = new Map<ParsedMessage, SluiceError | undefined>();
  if (deadLetterQueue !== undefined) {
    const sent = await sendToDeadLetterQueue(deadLetterQueue, letters, deadlineMs);
    for (const { item, result } of pairResults(letters, sent, () => ({
      ok: false as const,
      error: new PublishError("the dead-letter queue returned no result"),
    }))) {
      sendErrors.set(item.message, result.ok ? undefined : result.error);
    }
    countAny(telemetry, METRICS.messagesDeadLettered, sent.filter(({ ok }) => ok).length);
  }

  const retried: string[] = [];
  for (const { message, errors, deadLetter, retry } of failures) {
    const { messageId } = message;
    const sendError = sendErrors.get(message);
    const isDeadLettered = deadLetter !== undefined && sendErrors.has(message) && sendError === undefined;
    const isRetried = (retry || !isDeadLettered) && messageId !== undefined;
    if (isRetried) {
      retried.push(messageId);
      telemetry.count(METRICS.messagesFailed);
    }
    const all = sendError === undefined ? errors : [...errors, sendError];
    telemetry.error(lineOf(isRetried, isDeadLettered), {
      ...fieldsOf(message),
      receive_count: receiveCountOf(message.record),
      errors: all.slice(0, ERRORS_SHOWN).map(describeError),
      error_count: all.length,
    });
  }
  for (const message of outcomes) {
    if (message.result.kind !== "failed") messageLogger.info("message processed", fieldsOf(message));
  }
  return retried;
}

function lineOf(isRetried: boolean, isDeadLettered: boolean): string {
  if (isRetried) return "message failed, will retry";
  return isDeadLettered ? "message dead-lettered" : "record without a messageId dropped";
}

function fieldsOf({ messageId, event }: ParsedMessage): LogFields {
  return { message_id: messageId ?? "", ...(event && traceFields(event)) };
}

function receiveCountOf(record: unknown): number {
  const attributes = isObject(record) ? record.attributes : undefined;
  const text = isObject(attributes) ? attributes.ApproximateReceiveCount : undefined;
  return typeof text === "string" ? Number(text) : Number.NaN;
}

/** Emits no metric for a count of 0. */
function countAny(telemetry: GaugingTelemetry, metric: MetricName, value: number): void {
  if (value > 0) telemetry.count(metric, value);
}
