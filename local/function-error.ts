import type { RemoteError } from "#local/function-messages.ts";

/** An invocation that gave no answer: the function threw, ran too long, could not be loaded, or died. */
export class FunctionError extends Error {
  override readonly name = "FunctionError";
  readonly reason: "threw" | "timed_out" | "unusable" | "died";

  constructor(reason: FunctionError["reason"], message: string, options?: ErrorOptions) {
    super(message, options);
    this.reason = reason;
  }

  /** What the function's process said of an exception. */
  static from(reason: "threw" | "unusable", error: RemoteError): FunctionError {
    const failure = new FunctionError(reason, `${error.name}: ${error.message}`);
    if (error.stack !== "") failure.stack = error.stack;
    return failure;
  }
}
