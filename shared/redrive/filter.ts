import { type DeadMessage, flowOf } from "#shared/redrive/message.ts";

/** Which dead letters to replay; what is undefined does not matter. All that is given must hold. */
export interface Filter {
  /** One of these; `NO_ERROR_CODE` stands for a message without a code. */
  readonly errorCodes: readonly string[] | undefined;
  /** The `flow_id` of the body, in either case. */
  readonly flow: string | undefined;
  /** Seconds since the message was sent, at the pass' beginning. */
  readonly olderThanSeconds: number | undefined;
  readonly youngerThanSeconds: number | undefined;
}

const NO_ERROR_CODE = "none";

export function selectsEverything(filter: Filter): boolean {
  return Object.values(filter).every((part) => part === undefined);
}

/** Whether a message is to be replayed. `atMs` is what ages count to, in milliseconds since the epoch. */
export function matches(filter: Filter, message: DeadMessage, atMs: number): boolean {
  const { errorCodes, flow, olderThanSeconds, youngerThanSeconds } = filter;
  if (errorCodes !== undefined && !errorCodes.includes(message.errorCode ?? NO_ERROR_CODE)) return false;
  if (flow !== undefined && flowOf(message)?.toLowerCase() !== flow.toLowerCase()) return false;
  if (olderThanSeconds === undefined && youngerThanSeconds === undefined) return true;
  if (message.sentAt === undefined) return false;
  const age = (atMs - message.sentAt) / 1_000;
  if (olderThanSeconds !== undefined && age <= olderThanSeconds) return false;
  return youngerThanSeconds === undefined || age < youngerThanSeconds;
}
