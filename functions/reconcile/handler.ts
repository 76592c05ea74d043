/**
 * The reconcile function: on a schedule, it sweeps one slice of the executions that wait for dependencies, and hands
 * what dispatch missed back to the queue. Its answer is a `SweepReport`.
 */

import { Logger } from "@aws-lambda-powertools/logger";
import { injectLambdaContext } from "@aws-lambda-powertools/logger/middleware";
import { Metrics, MetricUnit } from "@aws-lambda-powertools/metrics";
import { logMetrics } from "@aws-lambda-powertools/metrics/middleware";
import { SQSClient } from "@aws-sdk/client-sqs";
import middy from "@middy/core";
import type { Context } from "aws-lambda";
import { readReconcileConfig } from "#shared/config.ts";
import { checkPartitions } from "#shared/dispatch/start-up.ts";
import type { LaneId } from "#shared/ids.ts";
import { PARTITION_CONFIG_KEY } from "#shared/keys.ts";
import { PartitionRouter } from "#shared/partitions.ts";
import { SqsCompletionSink } from "#shared/queue/publisher.ts";
import { readRecordedLanes } from "#shared/reconcile/scan.ts";
import { type SweepReport, sweep } from "#shared/reconcile/sweep.ts";
import { GAUGE_UNITS, type GaugingTelemetry } from "#shared/telemetry.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { SessionKeeper } from "#shared/valkey/session.ts";

const logger = new Logger({ serviceName: "sluice-reconcile" });
const metrics = new Metrics({ namespace: "Sluice", serviceName: "reconcile" });
const telemetry: GaugingTelemetry = {
  count: (metric, value = 1) => metrics.addMetric(metric, MetricUnit.Count, value),
  measure: (metric, value) => metrics.addMetric(metric, GAUGE_UNITS[metric], value),
  info: (message, fields) => logger.info(message, fields),
  warn: (message, fields) => logger.warn(message, fields),
  error: (message, fields) => logger.error(message, fields),
};

const config = readReconcileConfig(process.env);
const { partitions } = new PartitionRouter(config.partitions);
const sqs = new SQSClient({ requestHandler: { connectionTimeout: 2_000, requestTimeout: 5_000 } });
const sink = new SqsCompletionSink(sqs, config.completionsQueueUrl);
const sessions = new SessionKeeper(connect, start);
/** What an invocation needs to answer after its last step: the place, logs, metrics, the reply itself. */
const MARGIN_MS = 2_000;

function connect(knownNodes: readonly string[]): Valkey {
  return new Valkey(config.valkey, {
    knownNodes,
    onConnectionError: (error) => logger.warn("the connection to Valkey failed", error),
  });
}

let isAbsenceTold = false;

/** The lanes as they are recorded now: a sweep's first guess. */
async function start(valkey: Valkey): Promise<readonly LaneId[]> {
  if (!(await checkPartitions(valkey, config)) && !isAbsenceTold) {
    isAbsenceTold = true;
    telemetry.warn(`${PARTITION_CONFIG_KEY} is not recorded: going on with the configured partition count`, {
      flow_partitions: config.partitions.numFlowPartitions,
    });
  }
  return (await readRecordedLanes(valkey)).lanes;
}

async function handleSchedule(_event: unknown, context: Context): Promise<SweepReport> {
  const deadlineMs = Date.now() + context.getRemainingTimeInMillis() - MARGIN_MS;
  const { valkey, facts: likelyLanes } = await sessions.get();
  return sweep({
    valkey,
    sink,
    telemetry,
    partitions,
    lanes: config.lanes,
    likelyLanes,
    graceMs: config.graceMs,
    deadlineMs,
    now: Date.now,
    ensureLibrary: async () => {
      telemetry.info("looked for the Valkey library", { state: await ensureLibrary(valkey) });
    },
  });
}

export const handler = middy<unknown, SweepReport>()
  .use(injectLambdaContext(logger))
  .use(logMetrics(metrics))
  .handler(handleSchedule);
