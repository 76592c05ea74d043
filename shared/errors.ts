/**
 * Every error that Sluice itself raises. The class decides whether a retry can help; `name` is a literal,
 * since a minified bundle renames classes.
 */
export abstract class SluiceError extends Error {
  abstract override readonly name: string;
  /** What went wrong, in a word for machines: the `error_code` of a dead letter. */
  abstract readonly code: string;
  /** Whether the same message, delivered again later, may succeed. */
  abstract readonly retryable: boolean;
}

/** The environment or the deployment is set up wrongly; `errors` names every one of them. */
export class ConfigurationError extends SluiceError {
  override readonly name = "ConfigurationError";
  override readonly code = "invalid_configuration";
  override readonly retryable = false;
  readonly errors: readonly string[];

  constructor(errors: readonly string[]) {
    super(listed(errors));
    this.errors = errors;
  }
}

/** A queue message that is not a completion event (contract, section 8). */
export class MalformedMessageError extends SluiceError {
  override readonly name = "MalformedMessageError";
  override readonly code = "malformed_message";
  override readonly retryable = false;
}

/** A record in Valkey that contradicts the contract, in a place where guessing would do harm. */
export class InvalidRecordError extends SluiceError {
  override readonly name = "InvalidRecordError";
  override readonly code = "invalid_record";
  override readonly retryable = true;
}

/** A reply that is not of the form that section 5 of the contract gives. */
export class ProtocolError extends SluiceError {
  override readonly name = "ProtocolError";
  override readonly code = "protocol_error";
  override readonly retryable = false;
}

/** A function refused (`[0, code, …]`): the call succeeded, and nothing was written. */
export class RefusedError extends SluiceError {
  override readonly name = "RefusedError";
  override readonly retryable: boolean;
  override readonly code: string;
  readonly detail: readonly string[];

  constructor(functionName: string, code: string, detail: readonly string[], retryable = false) {
    super(`${functionName} refused: ${[code, ...detail].join(", ")}`);
    this.code = code;
    this.detail = detail;
    this.retryable = retryable;
  }
}

/** Valkey did not do what was asked: the connection, the server or the cluster failed. */
export class ValkeyError extends SluiceError {
  override readonly name = "ValkeyError";
  override readonly code = "valkey_error";
  override readonly retryable = true;
}

/** The queue did not accept a message. */
export class PublishError extends SluiceError {
  override readonly name = "PublishError";
  override readonly code = "publish_failed";
  override readonly retryable = true;
}

/** The queue did not do what was asked of it. */
export class QueueError extends SluiceError {
  override readonly name = "QueueError";
  override readonly code = "queue_failed";
  override readonly retryable = true;
}

/** A request of an operator that cannot be meant; `errors` names everything that is wrong with it. */
export class InvalidRequestError extends SluiceError {
  override readonly name = "InvalidRequestError";
  override readonly code = "invalid_request";
  override readonly retryable = false;
  readonly errors: readonly string[];

  constructor(errors: readonly string[]) {
    super(listed(errors));
    this.errors = errors;
  }
}

/** A flow was not submitted, or not to its end. Where it is retryable, submitting again completes it. */
export class SubmissionError extends SluiceError {
  override readonly name = "SubmissionError";
  override readonly code = "submission_failed";
  override readonly retryable: boolean;

  constructor(message: string, options: { readonly retryable: boolean; readonly cause?: unknown }) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.retryable = options.retryable;
  }
}

/** Another delivery of the same message is publishing the cascade just now; whether it lived to do so is seen later. */
export class CascadeInProgressError extends SluiceError {
  override readonly name = "CascadeInProgressError";
  override readonly code = "cascade_under_way";
  override readonly retryable = true;
}

/** CloudFormation did not take the answer of a custom resource. */
export class CustomResourceError extends SluiceError {
  override readonly name = "CustomResourceError";
  override readonly code = "answer_failed";
  override readonly retryable: boolean;

  constructor(message: string, retryable: boolean) {
    super(message);
    this.retryable = retryable;
  }
}

/** A fan-out that does not fit into the time that the invocation has left. What is done is kept. */
export class OutOfTimeError extends SluiceError {
  override readonly name = "OutOfTimeError";
  override readonly code = "out_of_time";
  override readonly retryable = true;
}

function listed(errors: readonly string[]): string {
  return errors.length === 1 ? String(errors[0]) : `${errors.length} errors:\n  - ${errors.join("\n  - ")}`;
}

/** The text of anything that was thrown. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}

/** An error with the chain of its causes, on one line. */
export function describeError(error: Error): string {
  const cause = error.cause === undefined ? "" : `: ${messageOf(error.cause)}`;
  return `${error.name}: ${error.message}${cause}`;
}
