import { setTimeout as pause } from "node:timers/promises";
import type { Caller } from "#functions/provision/request.ts";
import { CustomResourceError, messageOf } from "#shared/errors.ts";

/** How a request ended. `data` can be had from the template, by Fn::GetAtt. */
export type Outcome =
  | { readonly status: "SUCCESS"; readonly data: Readonly<Record<string, string>> }
  | { readonly status: "FAILED"; readonly reason: string };

/** CloudFormation takes no longer answer (AWS CloudFormation User Guide, "Custom resource response objects"). */
const MAX_BODY_BYTES = 4_096;
const FIRST_PAUSE_MS = 250;
const PUT_TIMEOUT_MS = 5_000;

/**
 * Tells CloudFormation how the request ended; tries again until the deadline, since it waits for an hour for an answer
 * that is lost. Rejects with a CustomResourceError where the answer was not taken.
 */
export async function answer(caller: Caller, outcome: Outcome, deadlineMs: number): Promise<void> {
  const body = Buffer.from(bodyOf(caller, outcome));
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs *= 2) {
    const fault = await put(caller.responseUrl, body, deadlineMs);
    if (fault === undefined) return;
    if (!fault.retryable || Date.now() + pauseMs >= deadlineMs) throw fault;
    await pause(pauseMs);
  }
}

/** The answer, with its reason cut where it would be too long. */
function bodyOf(caller: Caller, outcome: Outcome): string {
  for (let kept = 1_024; ; kept = Math.floor(kept / 2)) {
    const body = JSON.stringify({
      Status: outcome.status,
      ...(outcome.status === "SUCCESS"
        ? { Data: outcome.data }
        : { Reason: shortened(outcome.reason, kept) || "there is no reason that is short enough" }),
      PhysicalResourceId: caller.physicalResourceId,
      StackId: caller.stackId,
      RequestId: caller.requestId,
      LogicalResourceId: caller.logicalResourceId,
    });
    if (Buffer.byteLength(body) <= MAX_BODY_BYTES || kept === 0) return body;
  }
}

function shortened(text: string, length: number): string {
  return text.length <= length ? text : `${text.slice(0, length).toWellFormed()}…`;
}

/** The URL is signed for a PUT without a content type, and is a secret: no message shows it. */
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
    const isServers = response.status >= 500 || response.status === 429;
    return new CustomResourceError(
      `CloudFormation did not take the answer: HTTP ${response.status}`,
      isServers,
    );
  } catch (error) {
    const cause = error instanceof Error && error.cause !== undefined ? error.cause : error;
    return new CustomResourceError(
      `the answer did not reach CloudFormation at ${url.host}: ${messageOf(cause)}`,
      true,
    );
  }
}
