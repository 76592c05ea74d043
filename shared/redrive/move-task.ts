/** SQS' own move task: it moves a whole dead-letter queue by itself, its messages as they are. */

import {
  CancelMessageMoveTaskCommand,
  GetQueueAttributesCommand,
  ListMessageMoveTasksCommand,
  type ListMessageMoveTasksResultEntry,
  StartMessageMoveTaskCommand,
} from "@aws-sdk/client-sqs";
import { QueueError } from "#shared/errors.ts";
import type { QueueClient } from "#shared/queue/client.ts";
import type { Clock, Limits } from "#shared/redrive/clock.ts";
import { type Ended, NO_TOTALS, type RedriveReport } from "#shared/redrive/report.ts";

const POLL_MS = 1_000;
/** Polls until a task that was cancelled has ended; SQS says that it may take a while. */
const CANCEL_POLLS = 60;
/** What endpoints say that do not have move tasks, or not for this queue. */
const UNSUPPORTED = new Set([
  "InvalidAction",
  "UnknownOperationException",
  "UnsupportedOperation",
  "AWS.SimpleQueueService.UnsupportedOperation",
]);
const UNDER_WAY = new Set(["RUNNING", "CANCELLING"]);
const NEVER = new AbortController().signal;

export interface MovePorts {
  readonly client: QueueClient;
  readonly deadLetterQueueUrl: string;
  readonly completionsQueueUrl: string;
  readonly clock: Clock;
  readonly onProgress: (moved: number) => void;
}

export class MoveTask {
  readonly #ports: MovePorts;
  readonly #sourceArn: string;
  readonly #handle: string;

  private constructor(ports: MovePorts, sourceArn: string, handle: string) {
    this.#ports = ports;
    this.#sourceArn = sourceArn;
    this.#handle = handle;
  }

  /** Whether the endpoint has move tasks. Rejects with a QueueError where one is under way: SQS runs one a queue. */
  static async isAvailable(ports: MovePorts): Promise<boolean> {
    const sourceArn = await arnOf(ports, ports.deadLetterQueueUrl);
    const task = await unlessUnsupported(() => latestTask(ports, sourceArn));
    if (task.isSupported && UNDER_WAY.has(task.value?.Status ?? "")) {
      throw new QueueError(
        "a move task of the dead-letter queue is under way: wait for its end, or cancel it, and try again",
      );
    }
    return task.isSupported;
  }

  /** Starts to move everything; undefined where the endpoint cannot. `rate` in messages per second, from 1. */
  static async start(ports: MovePorts, rate: number): Promise<MoveTask | undefined> {
    const sourceArn = await arnOf(ports, ports.deadLetterQueueUrl);
    const destinationArn = await arnOf(ports, ports.completionsQueueUrl);
    const started = await unlessUnsupported(() =>
      ports.client.send(
        new StartMessageMoveTaskCommand({
          SourceArn: sourceArn,
          // Without it SQS moves only what its own redrive policy brought.
          DestinationArn: destinationArn,
          MaxNumberOfMessagesPerSecond: Math.floor(rate),
        }),
      ),
    );
    if (!started.isSupported) return undefined;
    const handle = started.value.TaskHandle;
    if (handle === undefined) throw new QueueError("the queue started a move task and gave no handle for it");
    return new MoveTask(ports, sourceArn, handle);
  }

  /** Goes on with the task of an earlier slice. */
  static async resume(ports: MovePorts, handle: string): Promise<MoveTask> {
    return new MoveTask(ports, await arnOf(ports, ports.deadLetterQueueUrl), handle);
  }

  /** Waits for the task's end; cancels it when it is time to stop, and leaves it to itself at the slice's end. */
  async run(limits: Limits): Promise<RedriveReport> {
    const { clock, onProgress } = this.#ports;
    for (;;) {
      const task = await this.#latest();
      const moved = task.ApproximateNumberOfMessagesMoved ?? 0;
      onProgress(moved);
      if (!UNDER_WAY.has(task.Status ?? "")) return reportOf(task);
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

  /** Cancels the task and waits until it has ended; what it moved is moved. */
  async cancel(): Promise<RedriveReport> {
    try {
      await this.#ports.client.send(new CancelMessageMoveTaskCommand({ TaskHandle: this.#handle }));
    } catch (error) {
      const task = await this.#latest();
      // It may have come to its end a moment before.
      if (!UNDER_WAY.has(task.Status ?? "")) return reportOf(task);
      throw new QueueError("the move task could not be cancelled and goes on", { cause: error });
    }
    for (let poll = 1; poll <= CANCEL_POLLS; poll += 1) {
      const task = await this.#latest();
      if (!UNDER_WAY.has(task.Status ?? "")) return reportOf(task);
      await this.#ports.clock.pause(POLL_MS, NEVER);
    }
    throw new QueueError(`the move task was cancelled and has not ended within ${CANCEL_POLLS} s`);
  }

  async #latest(): Promise<ListMessageMoveTasksResultEntry> {
    const task = await latestTask(this.#ports, this.#sourceArn);
    if (task === undefined) throw new QueueError("the queue does not know the move task any more");
    return task;
  }
}

function reportOf(task: ListMessageMoveTasksResultEntry, ended = endOf(task)): RedriveReport {
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

function endOf({ Status: status }: ListMessageMoveTasksResultEntry): Ended {
  if (status === "COMPLETED") return "complete";
  return status === "CANCELLED" ? "stopped" : "failed";
}

/** SQS lists the tasks of a queue, the latest first; it names the handle of a running one only. */
async function latestTask(
  { client }: MovePorts,
  sourceArn: string,
): Promise<ListMessageMoveTasksResultEntry | undefined> {
  const { Results: tasks = [] } = await client.send(
    new ListMessageMoveTasksCommand({ SourceArn: sourceArn, MaxResults: 1 }),
  );
  return tasks[0];
}

async function arnOf({ client }: MovePorts, queueUrl: string): Promise<string> {
  const command = new GetQueueAttributesCommand({ QueueUrl: queueUrl, AttributeNames: ["QueueArn"] });
  const answer = await client.send(command).catch((error: unknown) => {
    throw new QueueError(`the queue ${queueUrl} does not answer`, { cause: error });
  });
  const arn = answer.Attributes?.QueueArn;
  if (arn === undefined) throw new QueueError(`the queue ${queueUrl} does not tell its ARN`);
  return arn;
}

async function unlessUnsupported<T>(
  request: () => Promise<T>,
): Promise<{ readonly isSupported: true; readonly value: T } | { readonly isSupported: false }> {
  try {
    return { isSupported: true, value: await request() };
  } catch (error) {
    if (error instanceof Error && UNSUPPORTED.has(error.name)) return { isSupported: false };
    throw new QueueError('the queue refused a move task; the method "receive" does without one', {
      cause: error,
    });
  }
}
