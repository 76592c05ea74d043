/**
 * The reconcile function: on a schedule, it sweeps one slice of the executions that wait for dependencies, and hands
 * what dispatch missed back to the queue. Its answer is a `SweepReport`.
 */

import { injectLambdaContext } from "@aws-lambda-powertools/logger/middleware";
import { logMetrics } from "@aws-lambda-powertools/metrics/middleware";
import middy from "@middy/core";
import type { Context } from "aws-lambda";
import { readReconcileConfig } from "#functions/reconcile/config.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { queueClient } from "#shared/queue/client.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { readRecordedLanes } from "#shared/reconcile/scan.ts";
import { type SweepReport, sweep } from "#shared/reconcile/sweep.ts";
import { createPowertools } from "#shared/runtime/powertools.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { createSessions } from "#shared/valkey/start-up.ts";
import { TimedValkey } from "#shared/valkey/timed.ts";

const { logger, metrics, telemetry } = createPowertools("reconcile");
const config = readReconcileConfig(process.env);
const router = new PartitionRouter(config.partitions);
const publisher = new SqsCompletionPublisher(queueClient(), config.completionsQueueUrl);
/** The lanes as they are recorded when a client is new: a sweep's first guess. */
const sessions = createSessions(config, telemetry, async (valkey) => (await readRecordedLanes(valkey)).lanes);
/** What an invocation needs to answer after its last step: the place, logs, metrics, the reply itself. */
const MARGIN_MS = 2_000;

async function handleSchedule(_event: unknown, context: Context): Promise<SweepReport> {
  const deadlineMs = Date.now() + context.getRemainingTimeInMillis() - MARGIN_MS;
  const { valkey, startupInfo: likelyLanes } = await sessions.get();
  const timed = new TimedValkey(valkey);
  try {
    return await sweep({
      valkey: timed,
      publisher,
      telemetry,
      router,
      partitions: router.partitions,
      lanes: config.lanes,
      likelyLanes,
      graceMs: config.graceMs,
      deadlineMs,
      now: Date.now,
      ensureLibrary: async () => {
        telemetry.info("looked for the Valkey library", { state: await ensureLibrary(valkey) });
      },
    });
  } finally {
    if (timed.slowestMs !== undefined) telemetry.measure(METRICS.valkeyLatency, timed.slowestMs);
  }
}

export const handler = middy<unknown, SweepReport>()
  .use(injectLambdaContext(logger))
  .use(logMetrics(metrics))
  .handler(handleSchedule);
