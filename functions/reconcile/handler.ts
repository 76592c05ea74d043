/**
 * The reconcile function. A schedule invokes it; each invocation is one run of the reconciler, which does what no worker
 * and no message does: see `tasks.ts`. It returns a `SweepReport`.
 */

import { setTimeout } from "node:timers/promises";
import { injectLambdaContext } from "@aws-lambda-powertools/logger/middleware";
import { logMetrics } from "@aws-lambda-powertools/metrics/middleware";
import middy from "@middy/core";
import type { Context } from "aws-lambda";
import { readReconcileConfig } from "#functions/reconcile/config.ts";
import type { LaneId } from "#shared/contract/ids.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { messageOf } from "#shared/errors.ts";
import { SqsBacklog } from "#shared/queue/backlog.ts";
import { BatchSender } from "#shared/queue/batch-sender.ts";
import { queueClient } from "#shared/queue/client.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { SqsReadyPublisher } from "#shared/ready/publisher.ts";
import { readRecordedLanes } from "#shared/reconcile/lanes.ts";
import type { SweepReport } from "#shared/reconcile/report.ts";
import { selectTasks } from "#shared/reconcile/select-tasks.ts";
import { sweep } from "#shared/reconcile/sweep.ts";
import type { ReconcilerTask } from "#shared/reconcile/task.ts";
import { createPowertools } from "#shared/runtime/powertools.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { isUnavailable, type Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary, hasForeignLibrary } from "#shared/valkey/library.ts";
import type { Session } from "#shared/valkey/session.ts";
import { createSessions } from "#shared/valkey/start-up.ts";
import { TimedValkey } from "#shared/valkey/timed.ts";

const { logger, metrics, telemetry } = createPowertools("reconcile");
const config = readReconcileConfig(process.env);
const router = new PartitionRouter(config.partitions);
const queue = queueClient();
const publisher = new SqsCompletionPublisher(queue, config.completionsQueueUrl);
const backlog = new SqsBacklog(queue, config.completionsQueueUrl);
const flowEnds =
  config.flowEventsQueueUrl === undefined ? undefined : new BatchSender(queue, config.flowEventsQueueUrl);
const { readyQueueUrls } = config;
const readyQueues =
  readyQueueUrls.size === 0
    ? undefined
    : {
        publisher: new SqsReadyPublisher(queue, readyQueueUrls),
        backlogs: new Map([...readyQueueUrls].map(([lane, url]) => [lane, new SqsBacklog(queue, url)])),
      };
/** What is read once per client. */
interface StartupInfo {
  /** The recorded lanes. A sweep reads their indexes before it has read the current lanes. */
  readonly lanes: readonly LaneId[];
  readonly tasks: readonly ReconcilerTask[];
}

/** The recorded lanes that were read last. */
let lastLanes: readonly LaneId[] = [];
const sessions = createSessions(config, telemetry, async (valkey): Promise<StartupInfo> => {
  const [lanes, isForeign] = await Promise.all([readLanes(valkey), hasForeignLibrary(valkey)]);
  const retention = { retentionMs: config.retentionMs, flowEnds };
  const tasks = selectTasks(config.tasks, isForeign, retention, readyQueues);
  telemetry.info("reconciler tasks selected", {
    tasks: tasks.map(({ name }) => name),
    foreign_library: isForeign,
  });
  return { lanes, tasks };
});

async function readLanes(valkey: Valkey): Promise<readonly LaneId[]> {
  try {
    lastLanes = (await readRecordedLanes(valkey)).lanes;
  } catch (error) {
    if (!isUnavailable(error)) throw error;
  }
  return lastLanes;
}

/** Reserved after the last step for the checkpoint, logs, metrics and the response. */
const RESERVED_MS = 2_000;

async function handleSchedule(_event: unknown, context: Context): Promise<SweepReport> {
  const deadlineMs = Date.now() + context.getRemainingTimeInMillis() - RESERVED_MS;
  const session = await sessions.get();
  const timed = new TimedValkey(session.valkey);
  try {
    return await sweepOn(session, timed, deadlineMs);
  } catch (error) {
    if (timed.hasSucceeded || !session.valkey.isBroken) throw error;
    // A sweep has done nothing before its first reply, except perhaps acquire the lease: then the next run works.
    telemetry.warn("no reply from Valkey, starting over on new connections", { reason: messageOf(error) });
    const next = await sessions.replace(session);
    return await sweepOn(next, new TimedValkey(next.valkey), deadlineMs);
  }
}

async function sweepOn(
  { valkey, startupInfo }: Session<StartupInfo>,
  timed: TimedValkey,
  deadlineMs: number,
): Promise<SweepReport> {
  try {
    return await sweep({
      valkey: timed,
      publisher,
      backlog,
      readyQueues,
      telemetry,
      router,
      partitions: router.partitions,
      tasks: startupInfo.tasks,
      lanes: config.lanes,
      likelyLanes: startupInfo.lanes,
      intervalMs: config.intervalMs,
      graceMs: config.graceMs,
      deadlineMs,
      now: Date.now,
      sleep: setTimeout,
      ensureLibrary: async () => {
        telemetry.info("Valkey library checked", { state: await ensureLibrary(valkey) });
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
