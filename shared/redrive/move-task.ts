/** Replay by an SQS message move task, which moves a whole dead-letter queue without changing its messages. */

import {
  CancelMessageMoveTaskCommand,
  GetQueueAttributesCommand,
  ListMessageMoveTasksCommand,
  type ListMessageMoveTasksResultEntry,
  type SQSServiceException,
  StartMessageMoveTaskCommand,
} from "@aws-sdk/client-sqs";
import { QueueError } from "#shared/errors.ts";
import type { QueueClient } from "#shared/queue/client.ts";
import type { Clock, Limits } from "#shared/redrive/clock.ts";
import { type EndReason, NO_TOTALS, type RedriveReport } from "#shared/redrive/report.ts";

const POLL_MS = 1_000;
/** Polls before giving up on a cancelled task. SQS may take a while to end it. */
const CANCEL_POLLS = 60;
/** Error names of endpoints that have no move tasks, or none for this queue. */
const UNSUPPORTED = new Set([
  "InvalidAction",
  "UnknownOperationException",
  "UnsupportedOperation",
  "AWS.SimpleQueueService.UnsupportedOperation",
]);
/** HTTP statuses of gateways that could not reach the endpoint: their HTML says nothing about move tasks. */
const GATEWAY_ERRORS = new Set([502, 503, 504]);
const ACTIVE_STATUSES = new Set(["RUNNING", "CANCELLING"]);
const NEVER = new AbortController().signal;

export interface MoveTaskPorts {
  readonly client: QueueClient;
  readonly deadLetterQueueUrl: string;
  readonly completionsQueueUrl: string;
  readonly clock: Clock;
  readonly onProgress: (moved: number) => void;
}

/** An SQS message move task that has been started. */
export class MoveTask {
  readonly #ports: MoveTaskPorts;
  readonly #sourceArn: string;
  readonly #handle: string;

  private constructor(ports: MoveTaskPorts, sourceArn: string, handle: string) {
    this.#ports = ports;
    this.#sourceArn = sourceArn;
    this.#handle = handle;
  }

  /** Whether the endpoint has move tasks. Rejects with a QueueError if one is running: SQS allows one per queue. */
  static async isAvailable(ports: MoveTaskPorts): Promise<boolean> {
    const sourceArn = await readArn(ports, ports.deadLetterQueueUrl);
    const task = await detectSupport(() => latestTask(ports, sourceArn));
    if (task.isSupported && ACTIVE_STATUSES.has(task.value?.Status ?? "")) {
      throw new QueueError(
        "a move task of the dead-letter queue is already running: wait until it ends, or cancel it, then try again",
      );
    }
    return task.isSupported;
  }

  /** Starts a task for the whole queue; undefined if the endpoint has none. `rate` in messages per second, at least 1. */
  static async start(ports: MoveTaskPorts, rate: number): Promise<MoveTask | undefined> {
    const sourceArn = await readArn(ports, ports.deadLetterQueueUrl);
    const destinationArn = await readArn(ports, ports.completionsQueueUrl);
    const started = await detectSupport(() =>
      ports.client.send(
        new StartMessageMoveTaskCommand({
          SourceArn: sourceArn,
          // Without a destination, SQS moves only messages that its redrive policy dead-lettered.
          DestinationArn: destinationArn,
          MaxNumberOfMessagesPerSecond: Math.floor(rate),
        }),
      ),
    );
    if (!started.isSupported) return undefined;
    const handle = started.value.TaskHandle;
    if (handle === undefined)
      throw new QueueError("the queue started a move task without returning its handle");
    return new MoveTask(ports, sourceArn, handle);
  }

  /** Continues the task of an earlier slice. */
  static async resume(ports: MoveTaskPorts, handle: string): Promise<MoveTask> {
    return new MoveTask(ports, await readArn(ports, ports.deadLetterQueueUrl), handle);
  }

  /** Waits until the task ends. Cancels it if the signal aborts. At the deadline the task keeps running. */
  async run(limits: Limits): Promise<RedriveReport> {
    const { clock, onProgress } = this.#ports;
    for (;;) {
      const task = await this.#latest();
      const moved = task.ApproximateNumberOfMessagesMoved ?? 0;
      onProgress(moved);
      if (!ACTIVE_STATUSES.has(task.Status ?? "")) return reportOf(task);
      if (limits.signal.aborted) return this.cancel();
      if (clock.now() + POLL_MS >= limits.deadlineMs) {
        return {
          ...reportOf(task, "slice"),
          continuation: { pass: "move_task", task_handle: this.#handle },
        };
      }
      await clock.pause(POLL_MS, limits.signal);
    }
  }

  /** Cancels the task and waits until it has ended. Messages that it has moved stay moved. */
  async cancel(): Promise<RedriveReport> {
    try {
      await this.#ports.client.send(new CancelMessageMoveTaskCommand({ TaskHandle: this.#handle }));
    } catch (error) {
      const task = await this.#latest();
      // The task may have ended just before.
      if (!ACTIVE_STATUSES.has(task.Status ?? "")) return reportOf(task);
      throw new QueueError("cancelling the move task failed: it is still running", { cause: error });
    }
    for (let poll = 1; poll <= CANCEL_POLLS; poll += 1) {
      const task = await this.#latest();
      if (!ACTIVE_STATUSES.has(task.Status ?? "")) return reportOf(task);
      await this.#ports.clock.pause(POLL_MS, NEVER);
    }
    throw new QueueError(`the move task was cancelled but has not ended after ${CANCEL_POLLS} s`);
  }

  async #latest(): Promise<ListMessageMoveTasksResultEntry> {
    const task = await latestTask(this.#ports, this.#sourceArn);
    if (task === undefined) throw new QueueError("the queue no longer lists the move task");
    return task;
  }
}

function reportOf(task: ListMessageMoveTasksResultEntry, ended = endReasonOf(task)): RedriveReport {
  const moved = task.ApproximateNumberOfMessagesMoved ?? 0;
  const reason = task.FailureReason;
  return {
    ...NO_TOTALS,
    seen: moved,
    matching: moved,
    replayed: moved,
    dry_run: false,
    method: "move_task",
    done: ended !== "slice",
    ended,
    over_limit_ids: [],
    notes: reason === undefined ? [] : [`the move task failed: ${reason}`],
  };
}

function endReasonOf({ Status: status }: ListMessageMoveTasksResultEntry): EndReason {
  if (status === "COMPLETED") return "complete";
  return status === "CANCELLED" ? "stopped" : "failed";
}

/** SQS lists the latest task first, and returns the handle of a running task only. */
async function latestTask(
  { client }: MoveTaskPorts,
  sourceArn: string,
): Promise<ListMessageMoveTasksResultEntry | undefined> {
  const { Results: tasks = [] } = await client.send(
    new ListMessageMoveTasksCommand({ SourceArn: sourceArn, MaxResults: 1 }),
  );
  return tasks[0];
}

async function readArn({ client }: MoveTaskPorts, queueUrl: string): Promise<string> {
  const command = new GetQueueAttributesCommand({ QueueUrl: queueUrl, AttributeNames: ["QueueArn"] });
  const answer = await client.send(command).catch((error: unknown) => {
    throw new QueueError(`reading the ARN of the queue ${queueUrl} failed`, { cause: error });
  });
  const arn = answer.Attributes?.QueueArn;
  if (arn === undefined) throw new QueueError(`the queue ${queueUrl} did not return its ARN`);
  return arn;
}

async function detectSupport<T>(
  request: () => Promise<T>,
): Promise<{ readonly isSupported: true; readonly value: T } | { readonly isSupported: false }> {
  try {
    return { isSupported: true, value: await request() };
  } catch (error) {
    if (isUnsupported(error)) return { isSupported: false };
    throw new QueueError('the queue refused the move task: use the method "receive" instead', {
      cause: error,
    });
  }
}

/** An emulator without an operation answers with an error, or with an HTML page, which the SDK cannot parse. */
function isUnsupported(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  if (!(error instanceof SyntaxError)) return UNSUPPORTED.has(error.name);
  // The SDK adds the metadata of its own errors to those of the JSON parser.
  const { httpStatusCode: status = 0 }: SQSServiceException["$metadata"] =
    "$metadata" in error && typeof error.$metadata === "object" && error.$metadata !== null
      ? error.$metadata
      : {};
  return !GATEWAY_ERRORS.has(status);
}
