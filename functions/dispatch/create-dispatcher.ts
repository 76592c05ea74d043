/** Creates the handler of the dispatch function. */

import { injectLambdaContext } from "@aws-lambda-powertools/logger/middleware";
import { logMetrics } from "@aws-lambda-powertools/metrics/middleware";
import middy from "@middy/core";
import type { Context } from "aws-lambda";
import { type BatchPorts, type BatchResponse, processBatch } from "#functions/dispatch/batch.ts";
import { type DispatchConfig, readDispatchConfig } from "#functions/dispatch/config.ts";
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
import { SqsReadyPublisher } from "#shared/ready/publisher.ts";
import type { Environment } from "#shared/runtime/environment.ts";
import { createPowertools } from "#shared/runtime/powertools.ts";
import { type GaugingTelemetry, METRICS } from "#shared/runtime/telemetry.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import type { Session } from "#shared/valkey/session.ts";
import { createSessions, detectEdition } from "#shared/valkey/start-up.ts";
import { TimedValkey } from "#shared/valkey/timed.ts";

/** Time reserved to answer after the last window, in milliseconds: dead letters, logs, metrics, the reply itself. */
const MARGIN_MS = 1_000;

/** The part of Lambda's context that the dispatcher reads. */
export interface InvocationContext {
  readonly awsRequestId: string;
  readonly functionName: string;
  readonly functionVersion: string;
  readonly invokedFunctionArn: string;
  readonly memoryLimitInMB: string;
  /** Milliseconds. The dispatcher answers a second before it is 0. */
  getRemainingTimeInMillis(): number;
}

/** A handler for an SQS event source mapping with `ReportBatchItemFailures`, or for an EventBridge pipe. */
export type DispatchHandler = (event: unknown, context: InvocationContext) => Promise<BatchResponse>;

/** What an invocation needs besides its session. */
interface DispatchResources {
  readonly config: DispatchConfig;
  readonly router: PartitionRouter;
  readonly publisher: SqsCompletionPublisher;
  /** Undefined if no lane has a ready queue: then no readiness is read. */
  readonly ready: SqsReadyPublisher | undefined;
  readonly telemetry: GaugingTelemetry;
}

/**
 * Creates a Lambda handler that takes completions from the completions queue, and updates the children of the completed
 * executions. It is the handler of the dispatch function, with the same logs and metrics.
 *
 * Create it once, outside of the handler, so that invocations share its connections.
 *
 * @param environment The variables of docs/configuration.md: VALKEY_URL, COMPLETIONS_QUEUE_URL, DEAD_LETTER_QUEUE_URL, and
 * so on.
 * @throws ConfigurationError that lists every missing or invalid variable.
 *
 * @example
 * export const handler = createDispatcher();
 */
export function createDispatcher(environment: Environment = process.env): DispatchHandler {
  const { logger, messageLogger, metrics, telemetry } = createPowertools("dispatch");
  const config = readDispatchConfig(environment);
  const router = new PartitionRouter(config.partitions);
  const sqs = queueClient();
  const publisher = new SqsCompletionPublisher(sqs, config.completionsQueueUrl);
  const ready =
    config.readyQueueUrls.size === 0 ? undefined : new SqsReadyPublisher(sqs, config.readyQueueUrls);
  const resources: DispatchResources = { config, router, publisher, ready, telemetry };
  const sessions = createSessions(config, telemetry, (valkey) =>
    detectEdition(valkey, config, () => loadLibrary(resources, valkey), telemetry),
  );

  const ports: BatchPorts = {
    deadLetterQueue:
      config.deadLetterQueueUrl === undefined ? undefined : new BatchSender(sqs, config.deadLetterQueueUrl),
    maxCascadeDepth: config.maxCascadeDepth,
    telemetry,
    messageLogger,
    dispatch: async (events, deadlineMs) => {
      const session = await raceDeadline(() => sessions.get(), Date.now, deadlineMs);
      const attempt = await dispatchOn(resources, session, events, deadlineMs);
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
        const again = (await dispatchOn(resources, next, failed, deadlineMs)).results.values();
        return attempt.results.map((result, position) =>
          isFailed(position) ? (again.next().value ?? result) : result,
        );
      } catch (error) {
        telemetry.warn("no new connection to Valkey, messages will be retried", { reason: messageOf(error) });
        return attempt.results;
      }
    },
  };

  const handleBatch = (event: unknown, context: InvocationContext): Promise<BatchResponse> => {
    const deadlineMs = Date.now() + context.getRemainingTimeInMillis() - MARGIN_MS;
    return processBatch(ports, readRecords(event), deadlineMs);
  };

  const handler: (event: unknown, context: Context) => Promise<BatchResponse> = middy<
    unknown,
    BatchResponse
  >()
    .use(injectLambdaContext(logger))
    .use(logMetrics(metrics))
    .handler(handleBatch);
  // The middleware reads no other field of the context.
  return handler as DispatchHandler;
}

async function dispatchOn(
  resources: DispatchResources,
  { valkey, startupInfo: edition }: Session<Edition>,
  events: readonly CompletionEvent[],
  deadlineMs: number,
): Promise<{ readonly results: DispatchResult[]; readonly hasSucceeded: boolean }> {
  const { config, router, publisher, ready, telemetry } = resources;
  const timed = new TimedValkey(valkey);
  const results = await dispatch(
    {
      valkey: timed,
      router,
      publisher,
      ready,
      telemetry,
      deadlineMs,
      ensureLibrary: () => loadLibrary(resources, valkey, edition),
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
async function loadLibrary(
  { config, telemetry }: DispatchResources,
  valkey: Valkey,
  fallback?: Edition,
): Promise<void> {
  const state = await ensureLibrary(valkey, config.edition, fallback);
  telemetry.info("Valkey library checked", { state });
}
