/** One slice of a sweep that an operator asks for, in this process. */

import { z } from "zod";
import type { OperateContext } from "#operate/operation.ts";
import { countWaiting } from "#operate/reconcile/counted.ts";
import {
  PREVIEW_PUBLISHER,
  PREVIEWED,
  previewedTask,
  previewReady,
  previewValkey,
} from "#operate/reconcile/preview.ts";
import { type FlowId, parseFlowId, unwrap } from "#shared/contract/ids.ts";
import { ConfigurationError, InvalidRequestError } from "#shared/errors.ts";
import { SqsBacklog } from "#shared/queue/backlog.ts";
import { BatchSender } from "#shared/queue/batch-sender.ts";
import { readLanes, readRetentionMs } from "#shared/reconcile/config.ts";
import { readGraceMs } from "#shared/reconcile/grace.ts";
import type { AcquiredLease, Lease } from "#shared/reconcile/lease.ts";
import type { ReadyPorts } from "#shared/reconcile/run.ts";
import { selectTasks } from "#shared/reconcile/select-tasks.ts";
import { type ReconcilerPorts, sweep } from "#shared/reconcile/sweep.ts";
import { isTaskName, TASK_NAMES, type TaskName } from "#shared/reconcile/task-names.ts";
import { type Environment, isSet, readConfiguration, readQueueUrl } from "#shared/runtime/environment.ts";
import type { GaugingTelemetry, LogFields } from "#shared/runtime/telemetry.ts";
import { ensureLibrary, hasForeignLibrary } from "#shared/valkey/library.ts";
import { serverTimeMs } from "#shared/valkey/server-time.ts";

/** A slice is short, so that an operator sees progress. Milliseconds. */
const SLICE_MS = 20_000;
const RESERVED_MS = 2_000;
const MAX_NOTES = 20;

const TASK_STATES = ["complete", "incomplete", "out_of_time", "counted"] as const;

export const reconcileReport = z.object({
  dry_run: z.boolean(),
  partitions: z.number().describe("Partitions that were swept"),
  tasks: z.array(
    z.object({
      task: z.enum(TASK_NAMES),
      state: z
        .enum(TASK_STATES)
        .describe(
          "complete: the sweep is over. incomplete: it is over, and some indexes could not be processed or some messages not sent: the " +
            "next sweep retries them. out_of_time: the next page goes on. counted: a dry run that counts what waits",
        ),
      scanned: z.number().describe("Entries of indexes that were read"),
      unread: z.number().describe("Indexes that could not be read or processed"),
      counts: z
        .record(z.string(), z.number())
        .describe(
          "What was done, by the names of the reconciler's metrics. In a dry run: what a sweep would ask for; the library checks each call " +
            "again, and what follows from a change is not counted",
        ),
    }),
  ),
  unreadable: z.number().describe("Records that were skipped because they are invalid"),
  notes: z.array(z.string()).describe("Warnings, one sentence each"),
  next: z.string().optional().describe("The cursor of the next page. Missing on the last page"),
});

export type ReconcileReport = z.infer<typeof reconcileReport>;

export interface ReconcileRequest {
  readonly isDryRun: boolean;
  /** Sweep only the partition of this flow. */
  readonly flow: string | undefined;
  readonly tasks: readonly TaskName[] | undefined;
  readonly cursor: string | undefined;
}

/**
 * Sweeps until the end or for a slice of time. It takes no lease: the scheduled reconciler may run at the same time, and a completion
 * that both send changes nothing. `cursor` has the checkpoints of the tasks that are not done.
 *
 * @throws ConfigurationError if the environment lacks what the tasks need.
 * @throws InvalidRequestError if the cursor is none of this operation.
 * @throws ValkeyError if Valkey does not answer.
 */
export async function reconcileSlice(
  context: OperateContext,
  request: ReconcileRequest,
): Promise<ReconcileReport> {
  const { isDryRun, flow, cursor } = request;
  const settings = readSettings(context.environment, request.tasks);
  const flowId: FlowId | undefined = flow === undefined ? undefined : unwrap(parseFlowId(flow));
  const { router } = context;
  const partitions = flowId === undefined ? router.partitions : [router.flowPartition(flowId)];
  const readyQueues = readyPortsOf(context, isDryRun);
  const selected = selectTasks(
    request.tasks,
    await hasForeignLibrary(context.valkey),
    { retentionMs: settings.retentionMs, flowEnds: settings.flowEnds(context) },
    readyQueues,
  ).filter(({ name }) => name !== "retention" || request.tasks?.includes(name) === true);
  const checkpoint = readCursor(cursor);
  const open = checkpoint === undefined ? selected : selected.filter(({ name }) => name in checkpoint.tasks);
  const swept = isDryRun ? open.filter(({ name }) => PREVIEWED.has(name)).map(previewedTask) : open;
  const notes: string[] = [];
  const lease = new CursorLease();
  const ports: ReconcilerPorts = {
    valkey: isDryRun ? previewValkey(context.valkey) : context.valkey,
    publisher: isDryRun ? PREVIEW_PUBLISHER : settings.completions(context),
    backlog: new SqsBacklog(context.sqs, settings.completionsQueueUrl),
    readyQueues,
    telemetry: noting(notes),
    router,
    partitions,
    tasks: swept,
    lanes: settings.lanes,
    likelyLanes: [],
    acquireLease: async (): Promise<AcquiredLease> => ({
      lease,
      checkpoint: checkpoint?.text ?? "",
      serverNowMs: serverTimeMs(await context.valkey.call("time")),
    }),
    intervalMs: Number.POSITIVE_INFINITY,
    graceMs: settings.graceMs,
    deadlineMs: Math.min(Date.now() + SLICE_MS, context.deadlineMs - RESERVED_MS),
    now: Date.now,
    sleep: () => Promise.reject(new Error("a sweep without repetitions waits for nothing")),
    ensureLibrary: async () => {
      if (!isDryRun) await ensureLibrary(context.valkey, context.edition ?? "auto");
    },
  };
  const report = swept.length === 0 ? undefined : await sweep(ports);
  const reports = swept.map(({ name: task }) => {
    const { state = "incomplete", scanned = 0, unread = 0, counts = {} } = report?.tasks[task] ?? {};
    return { task, state: stateOf(state), scanned, unread, counts };
  });
  const counted = isDryRun ? open.filter(({ name }) => !PREVIEWED.has(name)) : [];
  const countedReports = await Promise.all(
    counted.map(async ({ name: task }) => ({
      task,
      state: "counted" as const,
      scanned: 0,
      unread: 0,
      counts: await countWaiting(context, task, partitions, settings.retentionMs),
    })),
  );
  return {
    dry_run: isDryRun,
    partitions: partitions.length,
    tasks: [...reports, ...countedReports],
    unreadable: report?.unreadable ?? 0,
    notes,
    ...(lease.checkpoint === "" ? {} : { next: Buffer.from(lease.checkpoint).toString("base64url") }),
  };
}

function stateOf(state: string): "complete" | "incomplete" | "out_of_time" {
  return state === "complete" || state === "out_of_time" ? state : "incomplete";
}

function readSettings(environment: Environment, tasks: readonly TaskName[] | undefined) {
  return readConfiguration(environment, (errors) => {
    if (tasks?.includes("retention") === true && !isSet(environment, "RETENTION_HOURS")) {
      errors.push(
        "RETENTION_HOURS is not set: the task retention deletes flows, and runs only with the setting of the reconcile function",
      );
    }
    if (tasks?.includes("ready") === true && !isSet(environment, "READY_QUEUES")) {
      errors.push("READY_QUEUES is not set: the task ready sends the messages of lanes with a ready queue");
    }
    const completionsQueueUrl = readQueueUrl(environment, "COMPLETIONS_QUEUE_URL", errors);
    // Without the deployment's own settings, flows would be deleted too early: they are read only for this task.
    const isRetaining = tasks?.includes("retention") === true;
    const flowEventsUrl =
      isRetaining && isSet(environment, "FLOW_EVENTS_QUEUE_URL")
        ? readQueueUrl(environment, "FLOW_EVENTS_QUEUE_URL", errors)
        : undefined;
    return {
      completionsQueueUrl,
      lanes: readLanes(environment, errors),
      graceMs: readGraceMs(environment, errors),
      retentionMs: isRetaining ? readRetentionMs(environment, errors) : 0,
      flowEnds: ({ sqs }: OperateContext) =>
        flowEventsUrl === undefined ? undefined : new BatchSender(sqs, flowEventsUrl),
      completions: ({ completions }: OperateContext) => {
        if (completions !== undefined) return completions;
        throw new ConfigurationError(["COMPLETIONS_QUEUE_URL is not set"]);
      },
    };
  });
}

function readyPortsOf({ ready, sqs, queues }: OperateContext, isDryRun: boolean): ReadyPorts | undefined {
  if (ready === undefined) return undefined;
  const ports = {
    publisher: ready,
    backlogs: new Map([...queues.ready].map(([lane, url]) => [lane, new SqsBacklog(sqs, url)])),
  };
  return isDryRun ? previewReady(ports) : ports;
}

function readCursor(cursor: string | undefined) {
  if (cursor === undefined) return undefined;
  const text = Buffer.from(cursor, "base64url").toString();
  try {
    const tasks: unknown = JSON.parse(text);
    if (typeof tasks === "object" && tasks !== null && Object.keys(tasks).every(isTaskName)) {
      return { text, tasks };
    }
  } catch {
    // Reported below.
  }
  throw new InvalidRequestError(["cursor: is not a cursor of this command: use `next` of its last answer"]);
}

/** Keeps the checkpoint for the next page. No other run is excluded. */
class CursorLease implements Lease {
  checkpoint = "";

  async renew(checkpoint: string): Promise<boolean> {
    this.checkpoint = checkpoint;
    return true;
  }

  async release(checkpoint: string): Promise<boolean> {
    this.checkpoint = checkpoint;
    return true;
  }
}

/** Adds the warnings of a sweep to `notes`, in place of a log and metrics. */
function noting(notes: string[]): GaugingTelemetry {
  const warn = (message: string, fields: LogFields): void => {
    const details = Object.entries(fields).map(([name, value]) => `${name} ${String(value)}`);
    if (notes.length < MAX_NOTES) notes.push([message, ...details].join(", "));
  };
  const ignore = (): void => undefined;
  return { warn, error: warn, info: ignore, count: ignore, measure: ignore };
}
