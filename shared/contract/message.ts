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
}

/** The part of an SQS record that `parseCompletionEvent` reads, in the form that Lambda passes to a function. */
export interface QueueRecord {
  readonly body: string;
  readonly messageAttributes: Readonly<
    Record<string, { readonly dataType: string; readonly stringValue?: string | undefined } | undefined>
  >;
}

/** The content of a message. It has no `outcome`: the record in Valkey is authoritative. */
export interface CompletionEvent {
  readonly executionId: ExecutionId;
  /** Undefined if the execution is in no flow, and so has no children. */
  readonly flowId: FlowId | undefined;
  readonly depth: number;
  readonly root: ExecutionId;
  /** W3C trace context, unchanged. Undefined if it is missing or malformed. */
  readonly traceparent: string | undefined;
}

export type ParsedEvent =
  | { readonly ok: true; readonly value: CompletionEvent }
  | { readonly ok: false; readonly error: MalformedMessageError };

const DEPTH = /^\d{1,15}$/;
/** Version, trace id, parent id, flags, and extra fields of later versions (www.w3.org/TR/trace-context, section 3.2). */
const TRACEPARENT =
  /^(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{0,200})?$/;

/** Parses a message. Ignores unknown fields. Returns an error that names the field if a known one is malformed. */
export function parseCompletionEvent(record: QueueRecord): ParsedEvent {
  const body = parseJsonObject(record.body);
  if (body === undefined) return malformedMessage("the body is not a JSON object");
  const executionId = parseExecutionId(body.execution_id);
  if (!executionId.ok) return malformedMessage(`execution_id: ${executionId.error.message}`);
  const flowId = parseOptionalFlowId(body.flow_id);
  if (!flowId.ok) return malformedMessage(`flow_id: ${flowId.error.message}`);
  const value = { executionId: executionId.value, flowId: flowId.value };
  // An execution in no flow has no children: nothing else in the message matters.
  if (value.flowId === undefined) {
    return { ok: true, value: { ...value, depth: 0, root: value.executionId, traceparent: undefined } };
  }
  const { depth, root, traceparent } = record.messageAttributes;
  const level = depth === undefined ? "0" : depth.stringValue;
  if (level === undefined || !DEPTH.test(level) || (depth && !isNumber(depth.dataType))) {
    return malformedMessage("the attribute depth is not a Number with an integer of at least 0");
  }
  const rootId = root === undefined ? executionId : parseExecutionId(root.stringValue);
  if (!rootId.ok) return malformedMessage(`the attribute root: ${rootId.error.message}`);
  return {
    ok: true,
    value: {
      ...value,
      depth: Number(level),
      root: rootId.value,
      traceparent: validTraceparent(traceparent?.stringValue),
    },
  };
}

/**
 * Returns a completion as an entry of SendMessageBatch. The flow id is the message group: on a standard queue (fair
 * queues), it keeps a flow with many messages from delaying the other flows.
 */
export function toBatchEntry(completion: Completion, id: string): SendMessageBatchRequestEntry {
  const { executionId, flowId, outcome, depth, root, traceparent } = completion;
  const attributes: Record<string, MessageAttributeValue> = {
    depth: { DataType: "Number", StringValue: String(depth) },
    root: { DataType: "String", StringValue: root },
  };
  if (traceparent !== undefined) {
    attributes.traceparent = { DataType: "String", StringValue: traceparent };
  }
  return {
    Id: id,
    MessageBody: JSON.stringify({ execution_id: executionId, flow_id: flowId, outcome }),
    MessageAttributes: attributes,
    MessageGroupId: flowId,
  };
}

/** Returns a valid trace context. A malformed one is dropped and does not fail the message. */
function validTraceparent(text = ""): string | undefined {
  const [, version, more] = TRACEPARENT.exec(text) ?? [];
  return version === undefined || (version === "00" && more !== undefined) ? undefined : text;
}

function isNumber(dataType: string): boolean {
  return dataType === "Number" || dataType.startsWith("Number.");
}

function parseOptionalFlowId(value: unknown): Parsed<FlowId | undefined> {
  return value === undefined || value === null || value === ""
    ? { ok: true, value: undefined }
    : parseFlowId(value);
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

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function malformedMessage(what: string): ParsedEvent {
  return { ok: false, error: new MalformedMessageError(`not a completion event: ${what}`) };
}
