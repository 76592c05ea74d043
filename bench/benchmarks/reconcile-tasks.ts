/** The rows of the benchmark `reconcile` for the tasks that process due entries. */

import { fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { expectEqual } from "#bench/benchmark.ts";
import { startFunction } from "#bench/dispatching.ts";
import { createDue, type DueKind } from "#bench/due-executions.ts";
import { timed } from "#bench/measure.ts";
import { atLeast, atMost, type Goal, type Row } from "#bench/report.ts";
import { BenchServer } from "#bench/server.ts";
import { startQueue } from "#local/queue.ts";
import type { TaskName } from "#shared/reconcile/task-names.ts";
import { METRICS, type MetricName } from "#shared/runtime/telemetry.ts";

const PUBLISHING = fileURLToPath(new URL("../publishing-process.ts", import.meta.url));
const SIZES = [10_000, 100_000];
const QUICK_SIZES = [500];
const SIZE_WITH_GOALS = 100_000;
const MIN_PER_SECOND = 20_000;
const MIN_SHARE_OF_PUBLISHER = 0.7;

interface Case {
  readonly what: string;
  readonly task: TaskName;
  readonly kind: DueKind;
  /** Counts each due entry. */
  readonly metric: MetricName;
  readonly sends: boolean;
}

const CASES: readonly Case[] = [
  { what: "leases", task: "leases", kind: "lease", metric: METRICS.leasesExpired, sends: false },
  { what: "timeouts", task: "timeouts", kind: "timeout", metric: METRICS.executionsExpired, sends: false },
  {
    what: "timeouts, completions sent",
    task: "timeouts",
    kind: "expiring",
    metric: METRICS.executionsExpired,
    sends: true,
  },
  { what: "delays", task: "delays", kind: "delay", metric: METRICS.delaysPromoted, sends: false },
  {
    what: "cancellations",
    task: "cancellations",
    kind: "cancelled",
    metric: METRICS.membersCancelled,
    sends: false,
  },
  { what: "retention", task: "retention", kind: "ended", metric: METRICS.executionsPurged, sends: false },
];

/** One row for each task and size. */
export async function taskRows(quick: boolean, note: (text: string) => void): Promise<Row[]> {
  const rows: Row[] = [];
  for (const one of CASES) {
    let before: { readonly size: number; readonly ms: number } | undefined;
    for (const size of quick ? QUICK_SIZES : SIZES) {
      note(`${size} due entries: ${one.what}`);
      const { ms, publisherMs, againMs } = await measure(one, size);
      const goals: Goal[] = [];
      const perSecond = (size * 1_000) / ms;
      const share = publisherMs === undefined ? undefined : publisherMs / ms;
      if (size === SIZE_WITH_GOALS && share === undefined) {
        goals.push(atLeast("at least 20,000 a second", perSecond, MIN_PER_SECOND));
      }
      if (size === SIZE_WITH_GOALS && share !== undefined) {
        goals.push(atLeast("at least 0.7 of the publisher's rate alone", share, MIN_SHARE_OF_PUBLISHER));
      }
      if (before !== undefined) {
        const growth = ms / size / (before.ms / before.size);
        goals.push(atMost(`linear: time for each at most 1.3 times that of ${before.size}`, growth, 1.3));
      }
      const figures = {
        ms,
        per_second: perSecond,
        ...(share === undefined ? {} : { share_of_publisher: share }),
        // What leases leave in the index is read by every later sweep.
        ...(one.task === "leases" ? { next_sweep_ms: againMs } : {}),
      };
      rows.push({ what: `${size} ${one.what}`, figures, goals });
      before = { size, ms };
    }
  }
  return rows;
}

/** One sweep in a warm process, the next one, and the publisher alone: the mean of before and after. */
async function measure(
  { task, kind, metric, sends }: Case,
  size: number,
): Promise<{ readonly ms: number; readonly publisherMs: number | undefined; readonly againMs: number }> {
  await using server = await BenchServer.start();
  await using queue = await startQueue({ visibilityTimeoutSeconds: 60 });
  const environment = { RECONCILE_TASKS: task, POWERTOOLS_LOG_LEVEL: "WARN" };
  await using fn = startFunction({ name: "reconcile", valkeyUrl: server.url, queue, environment });
  const sweep = async (due: number): Promise<number> => {
    let done = 0;
    const ms = await timed(async () => {
      done = countOf(await fn.invoke({}), task, metric);
    });
    expectEqual(metric, done, due);
    return ms;
  };
  const warmUp = Math.min(size, 2_000);
  await createDue(server.valkey, kind, warmUp);
  await sweep(warmUp);
  await server.client.flushdb("SYNC");
  await createDue(server.valkey, kind, size);
  const beforeMs = sends ? await publish(queue, size) : 0;
  const { visible: queued } = await queue.counts(queue.queueUrl);
  const ms = await sweep(size);
  const againMs = await sweep(0);
  const { visible } = await queue.counts(queue.queueUrl);
  expectEqual("completions sent", visible - queued, sends ? size : 0);
  return { ms, againMs, publisherMs: sends ? (beforeMs + (await publish(queue, size))) / 2 : undefined };
}

async function publish(
  {
    queueUrl,
    environment,
  }: { readonly queueUrl: string; readonly environment: Readonly<Record<string, string>> },
  count: number,
): Promise<number> {
  const child = fork(PUBLISHING, [queueUrl, String(count)], { env: { ...process.env, ...environment } });
  try {
    const [message] = await once(child, "message");
    return Number(Object(message).ms);
  } finally {
    child.kill();
  }
}

function countOf(report: unknown, task: TaskName, metric: MetricName): number {
  const { state, tasks } = Object(report);
  expectEqual("the sweep's end", state, "complete");
  return Number(tasks[task].counts[metric]);
}
