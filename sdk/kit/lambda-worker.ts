import { randomUUID } from "node:crypto";
import { injectLambdaContext } from "@aws-lambda-powertools/logger/middleware";
import middy, { type MiddlewareObj } from "@middy/core";
import type { Context, SQSBatchResponse, SQSEvent } from "aws-lambda";
import { readWorkerConfig, type WorkerConfig } from "#sdk/kit/config.ts";
import type { AnyTask } from "#sdk/kit/define-task.ts";
import { warnOfBudgets } from "#sdk/kit/foreign-library.ts";
import { inlineDispatch } from "#sdk/kit/inline-dispatch.ts";
import { runLambdaBatch } from "#sdk/kit/lambda-batch.ts";
import type { LambdaBatchResponse, LambdaContext, LambdaMiddleware } from "#sdk/kit/lambda-types.ts";
import type { TaskMiddleware } from "#sdk/kit/middleware.ts";
import type { WorkerPorts } from "#sdk/kit/ports.ts";
import { ReadyQueues } from "#sdk/kit/ready-queues.ts";
import { TaskRegistry } from "#sdk/kit/registry.ts";
import { EmbeddedTaskMetrics } from "#sdk/kit/task-metrics.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { queueClient } from "#shared/queue/client.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { SqsReadyPublisher } from "#shared/ready/publisher.ts";
import type { Environment } from "#shared/runtime/environment.ts";
import { createPowertools } from "#shared/runtime/powertools.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary, hasForeignLibrary } from "#shared/valkey/library.ts";
import { createSessions, detectEdition } from "#shared/valkey/start-up.ts";

/** The options of `lambdaWorker`. */
export interface LambdaWorkerOptions {
  /** The tasks that this function runs. Their lanes are those whose queues trigger it. */
  readonly tasks: readonly AnyTask[];
  /**
   * Where the children of an ended execution are updated. `inline`, the default: in this invocation, which saves a message and
   * an invocation per task. `queue`: by the dispatch function.
   */
  readonly dispatch?: "inline" | "queue";
  /** The variables of docs/configuration.md. Default: `process.env`. */
  readonly environment?: Environment;
  /** Middleware of middy around each invocation. */
  readonly middleware?: readonly LambdaMiddleware[];
  /** Around each run of a task. Default: none. */
  readonly taskMiddleware?: readonly TaskMiddleware[];
}

/** A handler for an SQS event source mapping with `ReportBatchItemFailures`. */
export type LambdaWorkerHandler = (event: unknown, context: LambdaContext) => Promise<LambdaBatchResponse>;

/** Reserved to answer, in milliseconds. */
const MARGIN_MS = 1_000;
const DEFAULT_STAGE = "local";

/**
 * Creates a Lambda handler that runs tasks. Its event sources are the ready queues of the tasks' lanes, with
 * `ReportBatchItemFailures`.
 *
 * Each invocation claims the executions of its messages, runs their tasks at once, writes their outcomes, updates their
 * children, and acknowledges last: an invocation that dies leaves messages that the queue delivers again.
 *
 * Create it once, outside of the handler, so that invocations share its connections.
 *
 * @throws ConfigurationError that lists every missing or invalid variable.
 *
 * @example
 * export const handler = lambdaWorker({ tasks: [resize] });
 */
export function lambdaWorker(options: LambdaWorkerOptions): LambdaWorkerHandler {
  const { tasks, dispatch = "inline", environment = process.env, middleware = [] } = options;
  const registry = new TaskRegistry(tasks);
  const config = readWorkerConfig(environment, registry, { needsReadyQueues: true });
  const { logger, metrics, telemetry } = createPowertools("worker");
  const taskMetrics = new EmbeddedTaskMetrics(environment.SLUICE_STAGE || DEFAULT_STAGE);
  const router = new PartitionRouter(config.partitions);
  const sqs = queueClient();
  const completions = new SqsCompletionPublisher(sqs, config.completionsQueueUrl);
  const ready = new SqsReadyPublisher(sqs, config.readyQueueUrls);
  const queues = new ReadyQueues(sqs, config.readyQueueUrls);
  const identity = { workerId: environment.AWS_LAMBDA_FUNCTION_NAME ?? "worker", instanceId: randomUUID() };

  let hasWarned = false;
  const sessions = createSessions(config, telemetry, async (valkey) => {
    const edition = await detectEdition(valkey, config, () => loadLibrary(config, valkey), telemetry);
    if (!hasWarned && (await hasForeignLibrary(valkey))) {
      hasWarned = true;
      warnOfBudgets(telemetry);
    }
    return edition;
  });

  const handleBatch = async (event: SQSEvent, context: Context): Promise<SQSBatchResponse> => {
    const deadlineMs = Date.now() + context.getRemainingTimeInMillis() - MARGIN_MS;
    const { valkey } = await sessions.get();
    const dispatcher = (): WorkerPorts["dispatch"] =>
      inlineDispatch({
        valkey,
        router,
        publisher: completions,
        ready,
        telemetry,
        ensureLibrary: () => loadLibrary(config, valkey),
        now: Date.now,
      });
    try {
      return await runLambdaBatch(
        {
          valkey,
          router,
          identity,
          completions,
          ready,
          queues,
          dispatch: dispatch === "queue" ? undefined : dispatcher(),
          log: telemetry,
          metrics: taskMetrics,
          middleware: options.taskMiddleware,
          now: Date.now,
        },
        registry,
        event.Records,
        deadlineMs,
      );
    } finally {
      taskMetrics.publish();
      // An invocation whose executions have no children counts nothing else.
      if (metrics.hasStoredMetrics()) metrics.publishStoredMetrics();
    }
  };

  const handler = middy<SQSEvent, SQSBatchResponse>().use(injectLambdaContext(logger));
  for (const one of middleware) handler.use(one as MiddlewareObj<SQSEvent, SQSBatchResponse>);
  const handle = handler.handler(handleBatch);
  // Lambda passes an event of SQS, and all of its context.
  return (event, context) => handle(event as SQSEvent, context as Context);
}

async function loadLibrary({ edition }: WorkerConfig, valkey: Valkey): Promise<void> {
  await ensureLibrary(valkey, edition);
}
