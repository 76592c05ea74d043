/**
 * Ready messages: they tell the workers of a lane that an execution can be claimed. A message is a hint. The record and the
 * lane's zsets decide, so a message that is lost, late or doubled changes nothing: a second claim is refused, and the
 * reconciler sends the message of an execution again that stays unclaimed.
 */

import {
  type ExecutionId,
  type FlowId,
  type LaneId,
  parseExecutionId,
  parseFlowId,
  parseLaneId,
} from "#shared/contract/ids.ts";
import { isObject, parseJsonObject, validTraceparent } from "#shared/contract/message.ts";
import { parseTime } from "#shared/contract/record.ts";
import { MalformedMessageError } from "#shared/errors.ts";
import type { QueueEntry } from "#shared/queue/batch-sender.ts";

/** An execution that a worker can claim. */
export interface ReadyExecution {
  readonly executionId: ExecutionId;
  /** Undefined if the execution is in no flow. */
  readonly flowId: FlowId | undefined;
  readonly lane: LaneId;
  /** The `execution_kind` of the record. */
  readonly kind: string;
  /** The execution whose end started the chain that leads here; for a log query. */
  readonly root?: ExecutionId;
  /** W3C trace context, passed on unchanged. */
  readonly traceparent?: string;
  /** How long the queue hides the message, 0 to `MAX_DELAY_SECONDS`; 0 unless given. */
  readonly delaySeconds?: number;
  /** When the queue accepted the message, in milliseconds since the epoch. Only on received messages. */
  readonly sentAtMs?: number;
}

export type ParsedReadyMessage =
  | { readonly ok: true; readonly value: ReadyExecution }
  | { readonly ok: false; readonly error: MalformedMessageError };

const TYPE = "ready";

/** The longest delay of a message in SQS, in seconds. */
export const MAX_DELAY_SECONDS = 900;

/** Returns the message as an entry of SendMessageBatch. Its message group is the flow (fair queues). */
export function readyEntry(ready: ReadyExecution): QueueEntry {
  const { executionId, flowId, lane, kind, root, traceparent, delaySeconds = 0 } = ready;
  return {
    MessageBody: JSON.stringify({ type: TYPE, execution_id: executionId, flow_id: flowId ?? "", lane, kind }),
    MessageAttributes: {
      root: { DataType: "String", StringValue: root ?? executionId },
      ...(traceparent === undefined ? {} : { traceparent: { DataType: "String", StringValue: traceparent } }),
    },
    MessageGroupId: flowId ?? executionId,
    ...(delaySeconds > 0 ? { DelaySeconds: delaySeconds } : {}),
  };
}

/**
 * Parses a record of a Lambda event. Ignores unknown fields. Returns an error that names the field that is wrong.
 */
export function parseReadyMessage(record: unknown): ParsedReadyMessage {
  const body = isObject(record) && typeof record.body === "string" ? parseJsonObject(record.body) : undefined;
  if (body === undefined) return malformed("the body is not a JSON object");
  if (body.type !== TYPE) return malformed(`type: expected "${TYPE}"`);
  const executionId = parseExecutionId(body.execution_id);
  if (!executionId.ok) return malformed(`execution_id: ${executionId.error.message}`);
  const flowId = body.flow_id === "" || body.flow_id === undefined ? undefined : parseFlowId(body.flow_id);
  if (flowId?.ok === false) return malformed(`flow_id: ${flowId.error.message}`);
  const lane = parseLaneId(body.lane);
  if (!lane.ok) return malformed(`lane: ${lane.error.message}`);
  if (typeof body.kind !== "string") return malformed("kind is not a string");
  const attributes = isObject(record) && isObject(record.messageAttributes) ? record.messageAttributes : {};
  const root = parseExecutionId(textOf(attributes.root));
  const traceparent = validTraceparent(textOf(attributes.traceparent));
  const sentAtMs = sentAt(record);
  return {
    ok: true,
    value: {
      executionId: executionId.value,
      flowId: flowId?.value,
      lane: lane.value,
      kind: body.kind,
      root: root.ok ? root.value : executionId.value,
      ...(traceparent === undefined ? {} : { traceparent }),
      ...(sentAtMs === undefined ? {} : { sentAtMs }),
    },
  };
}

function sentAt(record: unknown): number | undefined {
  const attributes = isObject(record) && isObject(record.attributes) ? record.attributes : {};
  const { SentTimestamp: text } = attributes;
  return typeof text === "string" ? parseTime(text) : undefined;
}

function textOf(attribute: unknown): unknown {
  return isObject(attribute) ? attribute.stringValue : undefined;
}

function malformed(what: string): ParsedReadyMessage {
  return { ok: false, error: new MalformedMessageError(`not a ready message: ${what}`) };
}
