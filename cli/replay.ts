/** Runs a replay slice by slice, in this process or in the deployed function. */

import { InvokeCommand, LambdaClient } from "@aws-sdk/client-lambda";
import type { RequestEvent } from "#cli/redrive-options.ts";
import { parseReport } from "#cli/report.ts";
import { SluiceError } from "#shared/errors.ts";
import { queueClient } from "#shared/queue/client.ts";
import { SYSTEM_CLOCK } from "#shared/redrive/clock.ts";
import { readRedriveConfig } from "#shared/redrive/config.ts";
import { RECEIVE_OPTIONS, redriveSlice } from "#shared/redrive/redrive.ts";
import type { RedriveReport } from "#shared/redrive/report.ts";
import { parseRequest } from "#shared/redrive/request.ts";
import type { Environment } from "#shared/runtime/environment.ts";

export type Progress = (replayed: number, seen: number) => void;

export type SliceRunner = (event: RequestEvent) => Promise<RedriveReport>;

/** Below the SQS limit of 120,000 messages in flight, so that others can still receive from the queue. */
const MAX_HIDDEN = 100_000;
/** Short, because Ctrl-C takes effect between two slices. */
const INVOKED_SLICE_SECONDS = 10;

/**
 * Runs slices until the replay is done. When the signal aborts, a local slice ends by itself; after a slice in the
 * function, one more call with `stop` ends the replay. Returns the last report, with the ids and notes of all slices.
 */
export async function replay(
  run: SliceRunner,
  event: RequestEvent,
  signal: AbortSignal,
): Promise<RedriveReport> {
  const overLimitIds: string[] = [];
  const notes: string[] = [];
  let report = await run(event);
  for (;;) {
    overLimitIds.push(...report.over_limit_ids);
    notes.push(...report.notes);
    if (report.done) return { ...report, over_limit_ids: overLimitIds, notes };
    const { continuation } = report;
    report = await run({ ...event, continuation, ...(signal.aborted ? { stop: true } : {}) });
  }
}

/** Runs slices in this process. Throws a ConfigurationError if the environment is invalid. */
export function localRunner(
  environment: Environment,
  signal: AbortSignal,
  onProgress: Progress,
): SliceRunner {
  const config = readRedriveConfig(environment);
  const client = queueClient();
  const ports = {
    client,
    config,
    clock: SYSTEM_CLOCK,
    receiveOptions: RECEIVE_OPTIONS,
    maxHidden: MAX_HIDDEN,
    onProgress,
  };
  const limits = { deadlineMs: Number.POSITIVE_INFINITY, signal };
  return (event) => redriveSlice(ports, parseRequest(event), limits);
}

/** Runs slices in the deployed function, which has its own queues, role and MAX_REPLAYS. */
export function functionRunner(functionName: string, onProgress: Progress): SliceRunner {
  const client = new LambdaClient();
  return async (event) => {
    const answer = await client.send(
      new InvokeCommand({
        FunctionName: functionName,
        Payload: JSON.stringify({ ...event, max_seconds: INVOKED_SLICE_SECONDS }),
      }),
    );
    const payload = answer.Payload?.transformToString() ?? "";
    if (answer.FunctionError !== undefined) throw new InvocationError(functionName, payload);
    const report = parseReport(payload);
    if (report === undefined) throw new InvocationError(functionName, `an invalid report: ${payload}`);
    onProgress(report.replayed, report.seen);
    return report;
  };
}

const MAX_SHOWN_LENGTH = 500;

/** The function failed. Messages that its slice had hidden reappear after their visibility timeout. */
class InvocationError extends SluiceError {
  override readonly name = "InvocationError";
  override readonly code = "invocation_failed";
  override readonly retryable = true;

  constructor(functionName: string, answer: string) {
    super(`the function ${functionName} returned ${answer.slice(0, MAX_SHOWN_LENGTH)}`);
  }
}
