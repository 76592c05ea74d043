/** Runs a replay slice by slice, in this process or by the deployed function, until it is done. */

import { InvokeCommand, LambdaClient } from "@aws-sdk/client-lambda";
import { SluiceError } from "#shared/errors.ts";
import { queueClient } from "#shared/queue/client.ts";
import { SYSTEM_CLOCK } from "#shared/redrive/clock.ts";
import { readRedriveConfig } from "#shared/redrive/config.ts";
import { READING, redriveSlice } from "#shared/redrive/redrive.ts";
import type { RedriveReport } from "#shared/redrive/report.ts";
import { parseRequest } from "#shared/redrive/request.ts";
import type { Environment } from "#shared/runtime/environment.ts";
import type { RequestEvent } from "./redrive-options.ts";
import { parseReport } from "./report.ts";

export type Progress = (replayed: number, seen: number) => void;

export type SliceRunner = (event: RequestEvent) => Promise<RedriveReport>;

/** Below what SQS lets be in flight at once, 120,000, so that the dead-letter queue can still be read by others. */
const MAX_HELD = 100_000;
/** Short, since a stop takes effect between two slices. */
const INVOKED_SLICE_SECONDS = 10;

/**
 * Runs slices until one is done. When the signal aborts, a slice that knows of it ends by itself, and what another
 * one left is put back. Ids and notes of all slices are in the report, which otherwise is the last one's.
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

/** With this machine's access to the queues. Throws a ConfigurationError where the environment does not name them. */
export function inProcess(environment: Environment, signal: AbortSignal, onProgress: Progress): SliceRunner {
  const config = readRedriveConfig(environment);
  const client = queueClient();
  const ports = { client, config, clock: SYSTEM_CLOCK, reading: READING, maxHeld: MAX_HELD, onProgress };
  const limits = { deadlineMs: Number.POSITIVE_INFINITY, signal };
  return (event) => redriveSlice(ports, parseRequest(event), limits);
}

/** By the deployed function, which has its own queues, its own role and its own MAX_REPLAYS. */
export function byInvoking(functionName: string, onProgress: Progress): SliceRunner {
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
    if (report === undefined)
      throw new InvocationError(functionName, `an answer that is no report: ${payload}`);
    onProgress(report.replayed, report.seen);
    return report;
  };
}

const SHOWN_LENGTH = 500;

/** The function failed. What its slice had hidden reappears when its time is up; nothing is lost. */
class InvocationError extends SluiceError {
  override readonly name = "InvocationError";
  override readonly code = "invocation_failed";
  override readonly retryable = true;

  constructor(functionName: string, answer: string) {
    super(`the function ${functionName} gave ${answer.slice(0, SHOWN_LENGTH)}`);
  }
}
