/** Requests to AWS whose failures are findings. */

import { type DoctorFinding, found } from "#operate/doctor/finding.ts";
import { messageOf } from "#shared/errors.ts";

/** What a request returned, or why it failed. */
export type Answer<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly reason: FailureReason; readonly finding: DoctorFinding };

type FailureReason = "missing" | "denied" | "unreachable" | "other";

const CREDENTIALS =
  /^(?:CredentialsProviderError|ExpiredToken|ExpiredTokenException|InvalidClientTokenId|UnrecognizedClientException|InvalidSignatureException|SignatureDoesNotMatch|MissingAuthenticationToken|InvalidAccessKeyId)/;
const DENIED = /^(?:AccessDenied|UnauthorizedOperation|KmsAccessDenied|KMSAccessDenied|Forbidden)/;
const MISSING = /^(?:QueueDoesNotExist|AWS\.SimpleQueueService\.NonExistentQueue|ResourceNotFoundException)/;
const UNREACHABLE =
  /^(?:TimeoutError|AbortError|NetworkingError|ECONN\w+|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH)/;

/** Makes one request. `action` is its IAM action, `where` what it is about. Never rejects. */
export async function ask<T>(action: string, where: string, send: () => Promise<T>): Promise<Answer<T>> {
  try {
    return { ok: true, value: await send() };
  } catch (error) {
    const reason = reasonOf(error);
    return { ok: false, reason: reason.kind, finding: findingOf(action, where, reason) };
  }
}

interface Failure {
  readonly kind: FailureReason;
  readonly isCredentials: boolean;
  readonly text: string;
}

function reasonOf(error: unknown): Failure {
  const fields = Object(error);
  const names = [fields.name, fields.Code, fields.code, fields.Error?.Code].map(String);
  const status = Number(fields.$metadata?.httpStatusCode);
  const text = `${names[0] ?? "Error"}: ${messageOf(error)}`;
  const has = (form: RegExp) => names.some((name) => form.test(name));
  if (/^Region is missing/.test(messageOf(error))) {
    return { kind: "denied", isCredentials: true, text: `${text}: set AWS_REGION` };
  }
  if (has(CREDENTIALS)) return { kind: "denied", isCredentials: true, text };
  if (has(DENIED) || status === 403) return { kind: "denied", isCredentials: false, text };
  if (has(MISSING)) return { kind: "missing", isCredentials: false, text };
  if (has(UNREACHABLE)) return { kind: "unreachable", isCredentials: false, text };
  return { kind: "other", isCredentials: false, text };
}

function findingOf(action: string, where: string, failure: Failure): DoctorFinding {
  if (failure.isCredentials) return found("credentials_missing", "the AWS credentials", failure.text);
  if (failure.kind === "denied") {
    return found(
      "permission_missing",
      where,
      `${action} is denied: ${failure.text}`,
      `allow ${action} on ${where}`,
    );
  }
  return found("check_failed", where, `${action}: ${failure.text}`);
}
