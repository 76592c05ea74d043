import { type DeadLetter, flowIdOf } from "#shared/redrive/message.ts";

/** Selects the dead letters to replay. A message must match all conditions that are set. */
export interface Filter {
  /** The ids of messages. A pass ends when it has seen all of them. */
  readonly messageIds?: readonly string[] | undefined;
  /** Any of these codes; "none" selects messages without a code. */
  readonly errorCodes: readonly string[] | undefined;
  /** The `flow_id` of the body; upper and lower case are equal. */
  readonly flow: string | undefined;
  /** Age in seconds at the start of the pass, counted from when the message was sent. */
  readonly olderThanSeconds: number | undefined;
  readonly youngerThanSeconds: number | undefined;
}

const NO_ERROR_CODE = "none";

/** Whether the filter has no condition. */
export function selectsEverything(filter: Filter): boolean {
  return Object.values(filter).every((part) => part === undefined);
}

/** Ages count up to `atMs`, in milliseconds since the epoch. */
export function matches(filter: Filter, message: DeadLetter, atMs: number): boolean {
  const { messageIds, errorCodes, flow, olderThanSeconds, youngerThanSeconds } = filter;
  if (messageIds !== undefined && !messageIds.includes(message.id)) return false;
  if (errorCodes !== undefined && !errorCodes.includes(message.errorCode ?? NO_ERROR_CODE)) return false;
  if (flow !== undefined && flowIdOf(message)?.toLowerCase() !== flow.toLowerCase()) return false;
  if (olderThanSeconds === undefined && youngerThanSeconds === undefined) return true;
  if (message.sentAt === undefined) return false;
  const age = (atMs - message.sentAt) / 1_000;
  if (olderThanSeconds !== undefined && age <= olderThanSeconds) return false;
  return youngerThanSeconds === undefined || age < youngerThanSeconds;
}
