/** The queue message of the wire contract (section 8): read strictly, written whole. */

import type { MessageAttributeValue, SendMessageBatchRequestEntry } from "@aws-sdk/client-sqs";
import {
  type ExecutionId,
  type FlowId,
  type Parsed,
  parseExecutionId,
  parseFlowId,
} from "#shared/contract/ids.ts";
import { MalformedMessageError } from "#shared/errors.ts";

/** One completed execution, on its way to the dispatcher (contract, section 8). */
export interface Completion {
  readonly executionId: ExecutionId;
  readonly flowId: FlowId;
  /** A hint for people, and whatever its sender wrote: the record in Valkey is the truth. */
  readonly outcome: string;
  /** Levels of skipped executions between the root and this one. */
  readonly depth: number;
  /** The execution whose outcome began the cascade. */
  readonly root: ExecutionId;
  /** W3C trace context, passed on as it came. */
  readonly traceparent?: string;
}

/** What of an SQS record the codec reads: the form that Lambda hands to a function. */
export interface QueueRecord {
  readonly body: string;
  readonly messageAttributes: Readonly<
    Record<string, { readonly dataType: string; readonly stringValue?: string | undefined } | undefined>
  >;
}

/** A message's content. `outcome` is left out on purpose: the record in Valkey is the truth. */
export interface CompletionEvent {
  readonly executionId: ExecutionId;
  /** Undefined: the execution is in no flow, and has no children. */
  readonly flowId: FlowId | undefined;
  readonly depth: number;
  readonly root: ExecutionId;
  /** W3C trace context, as it came. Undefined: none, or what was there was of another form. */
  readonly traceparent: string | undefined;
}

export type ParsedEvent =
  | { readonly ok: true; readonly value: CompletionEvent }
  | { readonly ok: false; readonly error: MalformedMessageError };

const DEPTH = /^\d{1,15}$/;
/** Version, trace id, parent id, flags, and what only later versions have (www.w3.org/TR/trace-context, section 3.2). */
const TRACEPARENT =
  /^(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{0,200})?$/;

/** Reads a message. Unknown fields are ignored; a wrong one is an error that names it. */
export function parseCompletionEvent(record: QueueRecord): ParsedEvent {
  const body = parseJsonObject(record.body);
  if (body === undefined) return malformedMessage("the body is not a JSON object");
  const executionId = parseExecutionId(body.execution_id);
  if (!executionId.ok) return malformedMessage(`execution_id: ${executionId.error.message}`);
  const flowId = parseOptionalFlowId(body.flow_id);
  if (!flowId.ok) return malformedMessage(`flow_id: ${flowId.error.message}`);
  const value = { executionId: executionId.value, flowId: flowId.value };
  // In no flow, there is nothing to do, and nothing else of the message matters.
  if (value.flowId === undefined) {
    return { ok: true, value: { ...value, depth: 0, root: value.executionId, traceparent: undefined } };
  }
  const { depth, root, traceparent } = record.messageAttributes;
  const level = depth === undefined ? "0" : depth.stringValue;
  if (level === undefined || !DEPTH.test(level) || (depth && !isNumber(depth.dataType))) {
    return malformedMessage("the attribute depth is not a Number that is whole and at least 0");
  }
  const rootId = root === undefined ? executionId : parseExecutionId(root.stringValue);
  if (!rootId.ok) return malformedMessage(`the attribute root: ${rootId.error.message}`);
  return {
    ok: true,
    value: {
      ...value,
      depth: Number(level),
      root: rootId.value,
      traceparent: traceparentIn(traceparent?.stringValue),
    },
  };
}

/**
 * Writes a completion as an entry of SendMessageBatch. The flow is the message group, which on a standard
 * queue keeps one flow with many messages from starving the others (fair queues).
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

/** A trace is a help for people: what is none is dropped, and the message goes on without. */
function traceparentIn(text = ""): string | undefined {
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

/** A JSON object's text; undefined for anything else. */
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
