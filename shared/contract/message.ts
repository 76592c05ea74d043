/** Reads and writes the queue message of the wire contract (section 8). */

import type { MessageAttributeValue, SendMessageBatchRequestEntry } from "@aws-sdk/client-sqs";
import {
  type ExecutionId,
  type FlowId,
  type Parsed,
  parseExecutionId,
  parseFlowId,
} from "#shared/contract/ids.ts";
import { MalformedMessageError } from "#shared/errors.ts";

/** A completed execution, as published to the dispatcher's queue (contract, section 8). */
export interface Completion {
  readonly executionId: ExecutionId;
  readonly flowId: FlowId;
  /** A hint for people, as the sender wrote it. The record in Valkey is authoritative. */
  readonly outcome: string;
  /** The number of levels of skipped executions between the root and this one. */
  readonly depth: number;
  /** The execution whose outcome started the cascade. */
  readonly root: ExecutionId;
  /** W3C trace context, passed on unchanged. */
  readonly traceparent?: string;
  /** How often the cascade was restarted at the depth limit; 0 unless given. */
  readonly generation?: number;
  /** How long the queue hides the message after it was sent, 0 to 900 seconds; 0 unless given. */
  readonly delaySeconds?: number;
}

/** The content of a message. It has no `outcome`: the record in Valkey is authoritative. */
export interface CompletionEvent {
  readonly executionId: ExecutionId;
  /** Undefined if the execution is in no flow, and so has no children. */
  readonly flowId: FlowId | undefined;
  readonly depth: number;
  /** How often the cascade was restarted at the depth limit. */
  readonly generation: number;
  readonly root: ExecutionId;
  /** W3C trace context, unchanged. Undefined if it is missing or malformed. */
  readonly traceparent: string | undefined;
}

export type ParsedEvent =
  | { readonly ok: true; readonly value: CompletionEvent }
  | { readonly ok: false; readonly error: MalformedMessageError };

/** The form of `depth` and `generation`: at most 15 digits, which a double holds exactly. */
const COUNTER = /^\d{1,15}$/;
/** Version, trace id, parent id, flags, and extra fields of later versions (www.w3.org/TR/trace-context, section 3.2). */
const TRACEPARENT =
  /^(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{0,200})?$/;

/**
 * Parses a record of an event. The record may be any value, since every caller of the function can choose it. Ignores
 * unknown fields, and treats null as an absent field. Returns an error that names the field if a known one is malformed.
 */
export function parseCompletionEvent(record: unknown): ParsedEvent {
  if (!isObject(record)) return malformedMessage("the record is not a JSON object");
  const { body: text, messageAttributes } = record;
  if (typeof text !== "string") return malformedMessage("the record has no body of text");
  const body = parseJsonObject(text);
  if (body === undefined) return malformedMessage("the body is not a JSON object");
  const executionId = parseExecutionId(body.execution_id);
  if (!executionId.ok) return malformedMessage(`execution_id: ${executionId.error.message}`);
  const flowId = parseOptionalFlowId(body.flow_id);
  if (!flowId.ok) return malformedMessage(`flow_id: ${flowId.error.message}`);
  const value = { executionId: executionId.value, flowId: flowId.value };
  // An execution in no flow has no children: nothing else in the message matters.
  if (value.flowId === undefined) {
    const root = value.executionId;
    return { ok: true, value: { ...value, depth: 0, generation: 0, root, traceparent: undefined } };
  }
  const attributes = messageAttributes ?? {};
  if (!isObject(attributes)) return malformedMessage("the message attributes are not a JSON object");
  const depth = parseCounter(attributes.depth);
  if (depth === undefined) return malformedMessage(`the attribute depth ${COUNTER_EXPECTED}`);
  const generation = parseCounter(attributes.generation);
  if (generation === undefined) return malformedMessage(`the attribute generation ${COUNTER_EXPECTED}`);
  const { root } = attributes;
  const rootId = isAbsent(root) ? executionId : parseExecutionId(stringValueOf(root));
  if (!rootId.ok) return malformedMessage(`the attribute root: ${rootId.error.message}`);
  return {
    ok: true,
    value: {
      ...value,
      depth,
      generation,
      root: rootId.value,
      traceparent: validTraceparent(stringValueOf(attributes.traceparent)),
    },
  };
}

/**
 * Returns a completion as an entry of SendMessageBatch. The flow id is the message group: on a standard queue (fair
 * queues), it keeps a flow with many messages from delaying the other flows.
 */
export function toBatchEntry(completion: Completion, id: string): SendMessageBatchRequestEntry {
  const {
    executionId,
    flowId,
    outcome,
    depth,
    root,
    traceparent,
    generation = 0,
    delaySeconds = 0,
  } = completion;
  const attributes: Record<string, MessageAttributeValue> = {
    depth: { DataType: "Number", StringValue: String(depth) },
    root: { DataType: "String", StringValue: root },
  };
  if (traceparent !== undefined) {
    attributes.traceparent = { DataType: "String", StringValue: traceparent };
  }
  if (generation > 0) attributes.generation = { DataType: "Number", StringValue: String(generation) };
  return {
    Id: id,
    MessageBody: JSON.stringify({ execution_id: executionId, flow_id: flowId, outcome }),
    MessageAttributes: attributes,
    MessageGroupId: flowId,
    ...(delaySeconds > 0 ? { DelaySeconds: delaySeconds } : {}),
  };
}

/** Returns a valid trace context. A malformed one is dropped and does not fail the message. */
export function validTraceparent(text: unknown): string | undefined {
  if (typeof text !== "string") return undefined;
  const [, version, more] = TRACEPARENT.exec(text) ?? [];
  return version === undefined || (version === "00" && more !== undefined) ? undefined : text;
}

const COUNTER_EXPECTED = "is not a Number with an integer of at least 0";

/** Returns the value of a Number attribute, 0 if it is absent, and undefined if it is malformed. */
function parseCounter(attribute: unknown): number | undefined {
  if (isAbsent(attribute)) return 0;
  const text = stringValueOf(attribute);
  const isNumber = isObject(attribute) && isNumberType(attribute.dataType);
  return isNumber && typeof text === "string" && COUNTER.test(text) ? Number(text) : undefined;
}

function isNumberType(dataType: unknown): boolean {
  return typeof dataType === "string" && /^Number(?:\.|$)/.test(dataType);
}

function stringValueOf(attribute: unknown): unknown {
  return isObject(attribute) ? attribute.stringValue : undefined;
}

function isAbsent(value: unknown): value is undefined | null {
  return value === undefined || value === null;
}

function parseOptionalFlowId(value: unknown): Parsed<FlowId | undefined> {
  return isAbsent(value) || value === "" ? { ok: true, value: undefined } : parseFlowId(value);
}

/** Parses a JSON object. Returns undefined for anything else. */
export function parseJsonObject(text: string): Record<string, unknown> | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  return isObject(value) ? value : undefined;
}

/** Whether a value of parsed JSON is an object, not an array. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function malformedMessage(what: string): ParsedEvent {
  return { ok: false, error: new MalformedMessageError(`not a completion event: ${what}`) };
}
