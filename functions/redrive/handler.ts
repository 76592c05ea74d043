/**
 * The redrive function. An operator invokes it to replay dead letters. `parseRequest` documents its event; it returns a
 * `RedriveReport`. While the report's `done` is false, invoke it again with the same event and the report's
 * `continuation`.
 */

import { injectLambdaContext } from "@aws-lambda-powertools/logger/middleware";
import middy from "@middy/core";
import type { Context } from "aws-lambda";
import { queueClient } from "#shared/queue/client.ts";
import { SYSTEM_CLOCK } from "#shared/redrive/clock.ts";
import { readRedriveConfig } from "#shared/redrive/config.ts";
import { RECEIVE_OPTIONS, redriveSlice } from "#shared/redrive/redrive.ts";
import type { RedriveReport } from "#shared/redrive/report.ts";
import { parseRequest } from "#shared/redrive/request.ts";
import { createLogger } from "#shared/runtime/logger.ts";

/** Reserved before Lambda's deadline for requests in flight and for making messages visible again. */
const RESERVED_MS = 5_000;
/** The continuation contains their handles, and Lambda limits events and responses to 6 MB. */
const MAX_HIDDEN = 10_000;
/** An invocation cannot be stopped from outside. `max_seconds` shortens it. */
const NEVER = new AbortController().signal;

const logger = createLogger("redrive");
const config = readRedriveConfig(process.env);
const client = queueClient();

async function redrive(event: unknown, context: Context): Promise<RedriveReport> {
  const request = parseRequest(event);
  const remainingMs = context.getRemainingTimeInMillis();
  const sliceMs = Math.min(
    remainingMs - Math.min(RESERVED_MS, remainingMs / 2),
    (request.maxSeconds ?? Number.POSITIVE_INFINITY) * 1_000,
  );
  const report = await redriveSlice(
    {
      client,
      config,
      clock: SYSTEM_CLOCK,
      receiveOptions: RECEIVE_OPTIONS,
      maxHidden: MAX_HIDDEN,
      onProgress: () => undefined,
    },
    request,
    { deadlineMs: SYSTEM_CLOCK.now() + sliceMs, signal: NEVER },
  );
  const { continuation, ...fields } = report;
  logger.info("replay slice ended", { ...fields, continues: continuation !== undefined });
  return report;
}

export const handler = middy<unknown, RedriveReport>().use(injectLambdaContext(logger)).handler(redrive);
