/** What can go wrong between the command and a function, in words that say what to do. */

import { ConfigurationError, messageOf, SluiceError } from "#shared/errors.ts";

/** A function failed, or its answer was lost or malformed. A change may have been made. */
export class OperateError extends SluiceError {
  override readonly name = "OperateError";
  override readonly code = "operate_failed";
  override readonly retryable = true;
}

/** Refusals of Lambda before a function runs, which end by themselves. */
const BUSY = new Set(["TooManyRequestsException"]);
/** Lambda takes the network interfaces of a function that was idle for weeks, and restores them at the next invocation. */
const WAKING = new Set(["ResourceNotReadyException", "ResourceConflictException"]);

export type Wait = "busy" | "waking";

/** Why a request that certainly did not run may be repeated, or undefined if it may not. */
export function waitFor(error: unknown): Wait | undefined {
  const name = nameOf(error);
  if (BUSY.has(name)) return "busy";
  return WAKING.has(name) ? "waking" : undefined;
}

/** Explains why a function could not be invoked, or why its answer did not arrive. */
export function describeFailure(
  error: unknown,
  functionName: string,
  region: string,
  isWrite: boolean,
): Error {
  const name = nameOf(error);
  const reason = messageOf(error);
  switch (name) {
    case "ResourceNotFoundException":
      return new ConfigurationError([
        `there is no function ${functionName} in ${region} and the account of your credentials: check --stage and --region. ` +
          "Stages that an earlier version deployed have no such function: deploy them again",
      ]);
    case "AccessDeniedException":
      return new ConfigurationError([
        `your credentials may not invoke ${functionName}: allow lambda:InvokeFunction on it (docs/deploy.md#operators)`,
      ]);
    case "CredentialsProviderError":
    case "ExpiredTokenException":
    case "ExpiredToken":
    case "UnrecognizedClientException":
    case "InvalidSignatureException":
    case "InvalidClientTokenId":
      return new ConfigurationError([
        `no valid AWS credentials (${reason}): sign in, or set AWS_PROFILE. \`aws sts get-caller-identity\` shows whether they work`,
      ]);
    case "TooManyRequestsException":
      return new OperateError(
        `Lambda throttles ${functionName}: other operators use it, or the account's concurrency is used up. Run the command again`,
      );
    default: {
      const isUnknown = isWrite && !isRefusal(error);
      return new OperateError(
        `${functionName} was not reached or did not answer (${name}: ${reason})` +
          (isUnknown ? ": changes may have been made, `sluice audit` shows whether the command arrived" : ""),
      );
    }
  }
}

function nameOf(error: unknown): string {
  return error instanceof Error ? error.name : "Error";
}

/** Whether Lambda answered with a client error: then the function did not run. */
function isRefusal(error: unknown): boolean {
  const status: unknown = Object(Object(error).$metadata).httpStatusCode;
  return typeof status === "number" && status >= 400 && status < 500;
}
