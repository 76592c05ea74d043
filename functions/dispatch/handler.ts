/** The dispatch function: SQS invokes it with completed executions; it updates their children in Valkey. */

import { injectLambdaContext } from "@aws-lambda-powertools/logger/middleware";
import { logMetrics } from "@aws-lambda-powertools/metrics/middleware";
import middy from "@middy/core";
import type { Context, SQSBatchResponse } from "aws-lambda";
import { type BatchPorts, processBatch } from "#functions/dispatch/batch.ts";
import { readDispatchConfig } from "#functions/dispatch/config.ts";
import { mayStartOver } from "#functions/dispatch/disposition.ts";
import { readRecords } from "#functions/dispatch/event.ts";
import type { Edition } from "#shared/contract/edition.ts";
import type { CompletionEvent } from "#shared/contract/message.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { dispatch } from "#shared/dispatch/dispatcher.ts";
import { raceDeadline } from "#shared/dispatch/time-budget.ts";
import type { DispatchResult } from "#shared/dispatch/types.ts";
import { messageOf } from "#shared/errors.ts";
import { BatchSender } from "#shared/queue/batch-sender.ts";
import { queueClient } from "#shared/queue/client.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { createPowertools } from "#shared/runtime/powertools.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import type { Session } from "#shared/valkey/session.ts";
import { createSessions, detectEdition } from "#shared/valkey/start-up.ts";
import { TimedValkey } from "#shared/valkey/timed.ts";

/** Time reserved to answer after the last window, in milliseconds: dead letters, logs, metrics, the reply itself. */
const MARGIN_MS = 1_000;

const { logger, messageLogger, metrics, telemetry } = createPowertools("dispatch");
const config = readDispatchConfig(process.env);
const router = new PartitionRouter(config.partitions);
const sqs = queueClient();
const publisher = new SqsCompletionPublisher(sqs, config.completionsQueueUrl);
const sessions = createSessions(config, telemetry, (valkey) =>
  detectEdition(valkey, config, () => loadLibrary(valkey), telemetry),
);

const ports: BatchPorts = {
  deadLetterQueue:
    config.deadLetterQueueUrl === undefined ? undefined : new BatchSender(sqs, config.deadLetterQueueUrl),
  maxCascadeDepth: config.maxCascadeDepth,
  telemetry,
  messageLogger,
  dispatch: async (events, deadlineMs) => {
    const session = await raceDeadline(() => sessions.get(), Date.now, deadlineMs);
    const attempt = await dispatchOn(session, events, deadlineMs);
    if (attempt.hasSucceeded || !session.valkey.isBroken) return attempt.results;
    // The connections were dead, and nothing was written: dispatch reads before it writes.
    telemetry.warn("no reply from Valkey, starting over on new connections", {});
    const isFailed = (position: number): boolean => {
      const result = attempt.results[position];
      return result !== undefined && mayStartOver(result);
    };
    try {
      const next = await raceDeadline(() => sessions.replace(session), Date.now, deadlineMs);
      const failed = events.filter((_, position) => isFailed(position));
      const again = (await dispatchOn(next, failed, deadlineMs)).results.values();
      return attempt.results.map((result, position) =>
        isFailed(position) ? (again.next().value ?? result) : result,
      );
    } catch (error) {
      telemetry.warn("no new connection to Valkey, messages will be retried", { reason: messageOf(error) });
      return attempt.results;
    }
  },
};

async function dispatchOn(
  { valkey, startupInfo: edition }: Session<Edition>,
  events: readonly CompletionEvent[],
  deadlineMs: number,
): Promise<{ readonly results: DispatchResult[]; readonly hasSucceeded: boolean }> {
  const timed = new TimedValkey(valkey);
  const results = await dispatch(
    {
      valkey: timed,
      router,
      publisher,
      telemetry,
      deadlineMs,
      ensureLibrary: () => loadLibrary(valkey, edition),
      maxCascadeDepth: config.maxCascadeDepth,
      restartDelaySeconds: config.restartDelaySeconds,
      now: Date.now,
    },
    events,
  );
  if (timed.slowestMs !== undefined) telemetry.measure(METRICS.valkeyLatency, timed.slowestMs);
  return { results, hasSucceeded: timed.hasSucceeded };
}

/** `fallback`: the edition to load when no primary has a library and none is recorded. */
async function loadLibrary(valkey: Valkey, fallback?: Edition): Promise<void> {
  const state = await ensureLibrary(valkey, config.edition, fallback);
  telemetry.info("Valkey library checked", { state });
}

async function handleBatch(event: unknown, context: Context): Promise<SQSBatchResponse> {
  const deadlineMs = Date.now() + context.getRemainingTimeInMillis() - MARGIN_MS;
  return processBatch(ports, readRecords(event), deadlineMs);
}

export const handler = middy<unknown, SQSBatchResponse>()
  .use(injectLambdaContext(logger))
  .use(logMetrics(metrics))
  .handler(handleBatch);
