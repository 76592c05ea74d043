/**
 * Base class of the errors that Sluice raises. `name` is a literal in each class, since a minified bundle renames
 * classes.
 */
export abstract class SluiceError extends Error {
  abstract override readonly name: string;
  /** A stable, machine-readable code: the `error_code` of a dead letter. */
  abstract readonly code: string;
  /** Whether a later retry of the same operation may succeed. */
  abstract readonly retryable: boolean;
}

/** The environment or the deployment is misconfigured. `errors` lists every problem. */
export class ConfigurationError extends SluiceError {
  override readonly name = "ConfigurationError";
  override readonly code = "invalid_configuration";
  override readonly retryable = false;
  readonly errors: readonly string[];

  constructor(errors: readonly string[]) {
    super(formatErrors(errors));
    this.errors = errors;
  }
}

/** A queue message that is not a completion event (contract, section 8). */
export class MalformedMessageError extends SluiceError {
  override readonly name = "MalformedMessageError";
  override readonly code = "malformed_message";
  override readonly retryable = false;
}

/** A record in Valkey violates the contract, and a default value would be unsafe. */
export class InvalidRecordError extends SluiceError {
  override readonly name = "InvalidRecordError";
  override readonly code = "invalid_record";
  override readonly retryable = true;
}

/** A message names another flow than the record of its execution. */
export class FlowMismatchError extends SluiceError {
  override readonly name = "FlowMismatchError";
  override readonly code = "flow_mismatch";
  override readonly retryable = false;
}

/** A reply of Valkey is malformed (contract, section 5). */
export class ProtocolError extends SluiceError {
  override readonly name = "ProtocolError";
  override readonly code = "protocol_error";
  override readonly retryable = false;
}

/** A Valkey function refused (`[0, code, …]`): the call succeeded, and nothing was written. */
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

/** A command failed: an error of the connection, the server or the cluster. */
export class ValkeyError extends SluiceError {
  override readonly name = "ValkeyError";
  override readonly code = "valkey_error";
  override readonly retryable = true;
}

/** A node sent no reply: the connection failed, or the reply did not arrive in time. The command may have run. */
export class UnreachableError extends ValkeyError {}

/**
 * A write was executed, but too few replicas confirmed it in time: a failover may lose it. A retry finds the write and
 * waits again.
 */
export class NotReplicatedError extends SluiceError {
  override readonly name = "NotReplicatedError";
  override readonly code = "written_not_confirmed";
  override readonly retryable = true;
}

/** A worker no longer holds the lease of an execution that it runs. Its handler's signal aborts with this error. */
export class LeaseLostError extends SluiceError {
  override readonly name = "LeaseLostError";
  override readonly code = "lease_lost";
  override readonly retryable = false;
}

/** Error replies about the key of a command: another type, or an error that a function raised while it ran. */
const RECORD_ERROR = /^(?:WRONGTYPE\b|ERR .*\bscript: )/s;

/**
 * Whether an error reply is about the record that a command reads or changes. A retry fails again, and other records are
 * not affected. All other errors are failures of the server or the connection.
 */
export function isRecordError(error: Error): boolean {
  return RECORD_ERROR.test(error.message);
}

/** A message is not known to be accepted by the queue. */
export class PublishError extends SluiceError {
  override readonly name = "PublishError";
  override readonly code = "publish_failed";
  override readonly retryable = true;
  /**
   * `refused`: the queue did not accept the message. `unknown`: no answer arrived, and the queue may have accepted it.
   */
  readonly outcome: "refused" | "unknown";

  constructor(message: string, outcome: "refused" | "unknown" = "unknown") {
    super(message);
    this.outcome = outcome;
  }
}

/** A queue request other than publishing failed. */
export class QueueError extends SluiceError {
  override readonly name = "QueueError";
  override readonly code = "queue_failed";
  override readonly retryable = true;
}

/** An operator's request is invalid. `errors` lists every problem. */
export class InvalidRequestError extends SluiceError {
  override readonly name = "InvalidRequestError";
  override readonly code = "invalid_request";
  override readonly retryable = false;
  readonly errors: readonly string[];

  constructor(errors: readonly string[]) {
    super(formatErrors(errors));
    this.errors = errors;
  }
}

/** A flow was not submitted, or only in part. If the error is retryable, submitting the flow again completes it. */
export class SubmissionError extends SluiceError {
  override readonly name = "SubmissionError";
  override readonly code = "submission_failed";
  override readonly retryable: boolean;

  constructor(message: string, options: { readonly retryable: boolean; readonly cause?: unknown }) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.retryable = options.retryable;
  }
}

/** Another delivery of the same message is publishing the cascade. A retry checks whether it succeeded. */
export class CascadeInProgressError extends SluiceError {
  override readonly name = "CascadeInProgressError";
  override readonly code = "cascade_under_way";
  override readonly retryable = true;
}

/** CloudFormation did not accept the response of a custom resource. */
export class CustomResourceError extends SluiceError {
  override readonly name = "CustomResourceError";
  override readonly code = "answer_failed";
  override readonly retryable: boolean;

  constructor(message: string, retryable: boolean) {
    super(message);
    this.retryable = retryable;
  }
}

/** The invocation's remaining time is too short for the rest of a fan-out. Progress so far is kept. */
export class OutOfTimeError extends SluiceError {
  override readonly name = "OutOfTimeError";
  override readonly code = "out_of_time";
  override readonly retryable = true;
}

function formatErrors(errors: readonly string[]): string {
  return errors.length === 1 ? String(errors[0]) : `${errors.length} errors:\n  - ${errors.join("\n  - ")}`;
}

/** Returns the message of any thrown value. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}

/** Returns an error and its direct cause on one line. */
export function describeError(error: Error): string {
  const cause = error.cause === undefined ? "" : `: ${messageOf(error.cause)}`;
  return `${error.name}: ${error.message}${cause}`;
}
