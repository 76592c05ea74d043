/** Reads the event of an invocation. */

import { isObject } from "#shared/contract/message.ts";
import { InvalidRequestError } from "#shared/errors.ts";

/** A record that the response can name. Its other fields are not checked. */
export interface IdentifiedRecord {
  readonly messageId: string;
}

/**
 * Returns the records of an SQS event: `{ Records: [...] }` from an event source mapping, or the bare list of the same
 * records from EventBridge Pipes. Throws an InvalidRequestError for any other event. A list may contain single records
 * that are not SQS records.
 */
export function readRecords(event: unknown): readonly unknown[] {
  const records: unknown = isObject(event) ? event.Records : event;
  if (!Array.isArray(records)) {
    throw notAnSqsEvent(isObject(event) ? "it has no list of Records" : `it is ${kindOf(event)}`);
  }
  if (records.length > 0 && !records.some(isIdentified)) {
    throw notAnSqsEvent("none of its records has a messageId");
  }
  return records;
}

/** Whether the response can name a record: Lambda treats an empty identifier as a failure of the whole batch. */
export function isIdentified(record: unknown): record is IdentifiedRecord {
  return isObject(record) && typeof record.messageId === "string" && record.messageId !== "";
}

function notAnSqsEvent(why: string): InvalidRequestError {
  return new InvalidRequestError([
    `the event is not an SQS event: ${why}. Invoke the function by an SQS event source mapping or an EventBridge pipe, ` +
      'or with {"Records": [...]} in the form of an SQS event',
  ]);
}

function kindOf(event: unknown): string {
  return event === null || event === undefined ? String(event) : `a ${typeof event}`;
}
