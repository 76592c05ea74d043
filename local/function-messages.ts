/** The messages between an execution environment and the process of its function. */

/** To the function: an event, and the data of its context. */
export interface InvocationMessage {
  readonly type: "invoke";
  readonly requestId: string;
  readonly event: unknown;
  /** Milliseconds since the epoch. */
  readonly deadlineMs: number;
}

/** An exception as it is reported to another process. */
export interface RemoteError {
  readonly name: string;
  readonly message: string;
  readonly stack: string;
}

/** From the function: it is loaded, could not be loaded, responded, or threw. */
export type FunctionMessage =
  | { readonly type: "ready" }
  | { readonly type: "unusable"; readonly error: RemoteError }
  | { readonly type: "answer"; readonly requestId: string; readonly json: string }
  | { readonly type: "error"; readonly requestId: string; readonly error: RemoteError };

export function isInvocation(message: unknown): message is InvocationMessage {
  return isTyped(message) && message.type === "invoke";
}

export function isFunctionMessage(message: unknown): message is FunctionMessage {
  return isTyped(message) && ["ready", "unusable", "answer", "error"].includes(String(message.type));
}

function isTyped(message: unknown): message is { type: unknown } {
  return typeof message === "object" && message !== null && "type" in message;
}
