import type { RemoteError } from "#local/function-messages.ts";

/** An invocation without a response: the function threw, timed out, could not be loaded, or its process died. */
export class FunctionError extends Error {
  override readonly name = "FunctionError";
  readonly reason: "threw" | "timed_out" | "unusable" | "died";

  constructor(reason: FunctionError["reason"], message: string, options?: ErrorOptions) {
    super(message, options);
    this.reason = reason;
  }

  /** Converts an exception that the function's process reported. */
  static from(reason: "threw" | "unusable", error: RemoteError): FunctionError {
    const failure = new FunctionError(reason, `${error.name}: ${error.message}`);
    if (error.stack !== "") failure.stack = error.stack;
    return failure;
  }
}
