/** What passes between an execution environment and the process in which its function runs. */

/** To the function: an event, and what its context says. */
export interface InvocationMessage {
  readonly type: "invoke";
  readonly requestId: string;
  readonly event: unknown;
  /** Milliseconds since the epoch. */
  readonly deadlineMs: number;
}

/** How an exception looks once it has left its process. */
export interface RemoteError {
  readonly name: string;
  readonly message: string;
  readonly stack: string;
}

/** From the function: that it is loaded, what it answered, or what it threw. */
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
