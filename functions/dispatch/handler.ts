/**
 * The dispatch function: SQS hands it completed executions, it deals with their children in Valkey, and
 * tells SQS which messages must come again.
 */

import { Logger } from "@aws-lambda-powertools/logger";
import { injectLambdaContext } from "@aws-lambda-powertools/logger/middleware";
import { Metrics, MetricUnit } from "@aws-lambda-powertools/metrics";
import { logMetrics } from "@aws-lambda-powertools/metrics/middleware";
import { SQSClient } from "@aws-sdk/client-sqs";
import middy from "@middy/core";
import type { Context, SQSBatchResponse, SQSEvent, SQSRecord } from "aws-lambda";
import { readDispatchConfig } from "#shared/config.ts";
import type { Edition } from "#shared/contract/edition.ts";
import { dispatch } from "#shared/dispatch/dispatcher.ts";
import { checkPartitions, findEdition } from "#shared/dispatch/start-up.ts";
import { describeFault, type SluiceError } from "#shared/errors.ts";
import { PARTITION_CONFIG_KEY } from "#shared/keys.ts";
import { PartitionRouter } from "#shared/partitions.ts";
import { type CompletionEvent, parseCompletionEvent } from "#shared/queue/message.ts";
import { SqsCompletionSink } from "#shared/queue/publisher.ts";
import { METRICS, type Telemetry } from "#shared/telemetry.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary as loadLibrary } from "#shared/valkey/library.ts";
import { SessionKeeper } from "#shared/valkey/session.ts";

const logger = new Logger({ serviceName: "sluice-dispatch" });
const metrics = new Metrics({ namespace: "Sluice", serviceName: "dispatch" });
const telemetry: Telemetry = {
  count: (metric, value = 1) => metrics.addMetric(metric, MetricUnit.Count, value),
  info: (message, fields) => logger.info(message, fields),
  warn: (message, fields) => logger.warn(message, fields),
  error: (message, fields) => logger.error(message, fields),
};

const config = readDispatchConfig(process.env);
const router = new PartitionRouter(config.partitions);
const sqs = new SQSClient({ requestHandler: { connectionTimeout: 2_000, requestTimeout: 5_000 } });
const sink = new SqsCompletionSink(sqs, config.completionsQueueUrl);
const sessions = new SessionKeeper(connect, start);
/** What an invocation needs to answer after its last window: logs, metrics, the reply itself. */
const MARGIN_MS = 1_000;

function connect(knownNodes: readonly string[]): Valkey {
  return new Valkey(config.valkey, {
    knownNodes,
    onConnectionError: (error) => logger.warn("the connection to Valkey failed", error),
  });
}

let isAbsenceTold = false;

async function start(valkey: Valkey): Promise<Edition> {
  if (!(await checkPartitions(valkey, config)) && !isAbsenceTold) {
    isAbsenceTold = true;
    telemetry.warn(`${PARTITION_CONFIG_KEY} is not recorded: going on with the configured partition count`, {
      flow_partitions: config.partitions.numFlowPartitions,
    });
  }
  return findEdition(valkey, config, () => ensureLibrary(valkey));
}

async function ensureLibrary(valkey: Valkey): Promise<void> {
  telemetry.info("looked for the Valkey library", { state: await loadLibrary(valkey) });
}

/** One message of the batch: what it says, or why it must come again. */
interface Delivery {
  readonly record: SQSRecord;
  readonly event: CompletionEvent | undefined;
  faults: readonly SluiceError[];
}

function receive(record: SQSRecord): Delivery {
  const parsed = parseCompletionEvent(record);
  if (parsed.ok) return { record, event: parsed.value, faults: [] };
  telemetry.count(METRICS.messagesMalformed);
  return { record, event: undefined, faults: [parsed.error] };
}

async function handleBatch({ Records }: SQSEvent, context: Context): Promise<SQSBatchResponse> {
  const deadlineMs = Date.now() + context.getRemainingTimeInMillis() - MARGIN_MS;
  const { valkey, facts: edition } = await sessions.get();
  const deliveries = Records.map(receive);
  const readable = deliveries.flatMap((delivery) =>
    delivery.event === undefined ? [] : [{ delivery, event: delivery.event }],
  );
  const faults = await dispatch(
    {
      valkey,
      router,
      sink,
      edition,
      telemetry,
      deadlineMs,
      ensureLibrary: () => ensureLibrary(valkey),
      maxCascadeDepth: config.maxCascadeDepth,
      now: Date.now,
    },
    readable.map(({ event }) => event),
  );
  for (const [position, { delivery }] of readable.entries()) delivery.faults = faults[position] ?? [];
  const failed = deliveries.filter((delivery) => delivery.faults.length > 0);
  for (const delivery of failed) reportFailure(delivery);
  telemetry.count(METRICS.completionsDispatched, deliveries.length - failed.length);
  return { batchItemFailures: failed.map(({ record }) => ({ itemIdentifier: record.messageId })) };
}

const FAULTS_SHOWN = 10;

function reportFailure({ record, event, faults }: Delivery): void {
  telemetry.count(METRICS.messagesFailed);
  telemetry.error("the message must come again", {
    message_id: record.messageId,
    receive_count: Number(record.attributes.ApproximateReceiveCount),
    ...(event && {
      execution_id: event.executionId,
      flow_id: event.flowId ?? "",
      root: event.root,
      depth: event.depth,
    }),
    faults: faults.slice(0, FAULTS_SHOWN).map(describeFault),
    fault_count: faults.length,
  });
}

export const handler = middy<SQSEvent, SQSBatchResponse>()
  .use(injectLambdaContext(logger))
  .use(logMetrics(metrics))
  .handler(handleBatch);
