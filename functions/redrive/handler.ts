/**
 * The redrive function: an operator invokes it, and it replays dead letters for as long as it may run. Its event is a
 * `RedriveRequest` in JSON, its answer a `RedriveReport`; while that is not `done`, the same event with the report's
 * `continuation` goes on from there.
 */

import { Logger } from "@aws-lambda-powertools/logger";
import { injectLambdaContext } from "@aws-lambda-powertools/logger/middleware";
import middy from "@middy/core";
import type { Context } from "aws-lambda";
import { queueClient } from "#shared/queue/client.ts";
import { SYSTEM_CLOCK } from "#shared/redrive/clock.ts";
import { readRedriveConfig } from "#shared/redrive/config.ts";
import { READING, redriveSlice } from "#shared/redrive/redrive.ts";
import type { RedriveReport } from "#shared/redrive/report.ts";
import { parseRequest } from "#shared/redrive/request.ts";

/** Kept back from Lambda's deadline for what is under way, and for putting messages back, in milliseconds. */
const MARGIN_MS = 5_000;
/** Their handles travel in the answer and in the next event, of which Lambda takes 6 MB. */
const MAX_HELD = 10_000;
/** Nobody stops a function from outside: a slice that is to end sooner says so in `max_seconds`. */
const NEVER = new AbortController().signal;

const logger = new Logger({ serviceName: "sluice-redrive" });
const config = readRedriveConfig(process.env);
// Longer than a long poll lasts.
const client = queueClient();

async function redrive(event: unknown, context: Context): Promise<RedriveReport> {
  const request = parseRequest(event);
  const remainingMs = context.getRemainingTimeInMillis();
  const sliceMs = Math.min(
    remainingMs - Math.min(MARGIN_MS, remainingMs / 2),
    (request.maxSeconds ?? Number.POSITIVE_INFINITY) * 1_000,
  );
  const report = await redriveSlice(
    { client, config, clock: SYSTEM_CLOCK, reading: READING, maxHeld: MAX_HELD, onProgress: () => undefined },
    request,
    { deadlineMs: SYSTEM_CLOCK.now() + sliceMs, signal: NEVER },
  );
  const { continuation, ...said } = report;
  logger.info("a slice of a replay ended", { ...said, goes_on: continuation !== undefined });
  return report;
}

export const handler = middy<unknown, RedriveReport>().use(injectLambdaContext(logger)).handler(redrive);
