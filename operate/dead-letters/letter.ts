import { z } from "zod";
import { executionOf } from "#operate/dead-letters/explain.ts";
import type { Explanation } from "#operate/explain/explain.ts";
import { parseJsonObject } from "#shared/contract/message.ts";
import { type DeadLetter, flowIdOf } from "#shared/redrive/message.ts";

/** Characters of a body in a list. */
const SHORT_BODY = 500;

export const letterReport = z.object({
  message_id: z.string(),
  sent_at: z
    .number()
    .optional()
    .describe("When the message was first sent; when it was dead-lettered, if dispatch did that"),
  age_ms: z.number().optional(),
  receive_count: z.number().optional().describe("Deliveries, as SQS counts them, this command's included"),
  replays: z.number().describe("How often it was replayed"),
  error_code: z
    .string()
    .optional()
    .describe(
      "Why dispatch gave it up. Missing: the queue's redrive policy moved it after too many failed deliveries",
    ),
  error_message: z.string().optional(),
  failed_at: z.number().optional(),
  execution_id: z.string().optional().describe("Missing if the message names no valid execution"),
  flow_id: z.string().optional(),
  outcome: z.string().optional().describe("As the message says. The record decides"),
  body: z.string().describe("Shortened in a list"),
  explanation: z
    .object({
      exists: z.boolean(),
      state: z.string().optional().describe("The public_state of the record"),
      summary: z.string(),
      next: z.array(z.string()),
    })
    .optional()
    .describe("What `explain` says about the execution"),
});

export type LetterReport = z.infer<typeof letterReport>;

/** Describes a dead letter. `isShort`: in a list. */
export function describeLetter(
  letter: DeadLetter,
  explanation: Explanation | undefined,
  nowMs: number,
  isShort: boolean,
): LetterReport {
  const { id, body, attributes, sentAt, receiveCount, replays, errorCode } = letter;
  const event = parseJsonObject(body) ?? {};
  const failedAt = Date.parse(attributes.failed_at?.StringValue ?? "");
  const errorMessage = attributes.error_message?.StringValue;
  const executionId = executionOf(letter);
  const flowId = flowIdOf(letter);
  return {
    message_id: id,
    ...(sentAt === undefined ? {} : { sent_at: sentAt, age_ms: Math.max(0, nowMs - sentAt) }),
    ...(receiveCount === undefined ? {} : { receive_count: receiveCount }),
    replays,
    ...(errorCode === undefined ? {} : { error_code: errorCode }),
    ...(errorMessage === undefined ? {} : { error_message: errorMessage }),
    ...(Number.isNaN(failedAt) ? {} : { failed_at: failedAt }),
    ...(executionId === undefined ? {} : { execution_id: executionId }),
    ...(flowId === undefined ? {} : { flow_id: flowId.slice(0, SHORT_BODY) }),
    ...(typeof event.outcome === "string" ? { outcome: event.outcome.slice(0, SHORT_BODY) } : {}),
    body: isShort && body.length > SHORT_BODY ? `${body.slice(0, SHORT_BODY)}…` : body,
    ...(explanation === undefined ? {} : { explanation: shorten(explanation) }),
  };
}

function shorten({ exists, record, summary, next }: Explanation): LetterReport["explanation"] {
  return { exists, ...(record === undefined ? {} : { state: record.public_state }), summary, next };
}
