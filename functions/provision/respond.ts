import { setTimeout as pause } from "node:timers/promises";
import type { ResponseTarget } from "#functions/provision/request.ts";
import { CustomResourceError, messageOf } from "#shared/errors.ts";

/** The result of a request. Templates read `data` with Fn::GetAtt. */
export type Outcome =
  | { readonly status: "SUCCESS"; readonly data: Readonly<Record<string, string>> }
  | { readonly status: "FAILED"; readonly reason: string };

/** The maximum size of a response (AWS CloudFormation User Guide, "Custom resource response objects"). */
const MAX_BODY_BYTES = 4_096;
const FIRST_RETRY_DELAY_MS = 250;
const PUT_TIMEOUT_MS = 5_000;

/**
 * Sends the result of a request to CloudFormation. Retries until the deadline (milliseconds since the epoch), because
 * CloudFormation waits an hour for a lost response. Rejects with a CustomResourceError if the response was not accepted.
 */
export async function respond(target: ResponseTarget, outcome: Outcome, deadlineMs: number): Promise<void> {
  const body = Buffer.from(bodyOf(target, outcome));
  for (let pauseMs = FIRST_RETRY_DELAY_MS; ; pauseMs *= 2) {
    const error = await put(target.responseUrl, body, deadlineMs);
    if (error === undefined) return;
    if (!error.retryable || Date.now() + pauseMs >= deadlineMs) throw error;
    await pause(pauseMs);
  }
}

/** The response body. Shortens the reason until the body fits. */
function bodyOf(target: ResponseTarget, outcome: Outcome): string {
  for (let kept = 1_024; ; kept = Math.floor(kept / 2)) {
    const body = JSON.stringify({
      Status: outcome.status,
      ...(outcome.status === "SUCCESS"
        ? { Data: outcome.data }
        : { Reason: shortened(outcome.reason, kept) || "the reason is too long to report" }),
      PhysicalResourceId: target.physicalResourceId,
      StackId: target.stackId,
      RequestId: target.requestId,
      LogicalResourceId: target.logicalResourceId,
    });
    if (Buffer.byteLength(body) <= MAX_BODY_BYTES || kept === 0) return body;
  }
}

function shortened(text: string, length: number): string {
  return text.length <= length ? text : `${text.slice(0, length).toWellFormed()}…`;
}

/** The URL is signed for a PUT without a content type. It is a secret, so error messages do not contain it. */
async function put(url: URL, body: Buffer, deadlineMs: number): Promise<CustomResourceError | undefined> {
  const timeoutMs = Math.max(1, Math.min(PUT_TIMEOUT_MS, deadlineMs - Date.now()));
  try {
    const response = await fetch(url, {
      method: "PUT",
      body,
      redirect: "error",
      signal: AbortSignal.timeout(timeoutMs),
    });
    await response.body?.cancel();
    if (response.ok) return undefined;
    const isRetryable = response.status >= 500 || response.status === 429;
    return new CustomResourceError(
      `CloudFormation rejected the response: HTTP ${response.status}`,
      isRetryable,
    );
  } catch (error) {
    const cause = error instanceof Error && error.cause !== undefined ? error.cause : error;
    return new CustomResourceError(
      `sending the response to CloudFormation at ${url.host} failed: ${messageOf(cause)}`,
      true,
    );
  }
}
