/**
 * Replays dead letters: sends them back to the completions queue.
 *
 * An SQS move task is the cheapest way to move a whole queue. But it cannot filter: it also moves messages that are over
 * the replay limit, and it keeps the error attributes. A survey therefore receives every message first. If no message has
 * to stay or to change, a move task moves the queue; otherwise a pass replays message by message.
 */

import { InvalidRequestError } from "#shared/errors.ts";
import { BatchSender } from "#shared/queue/batch-sender.ts";
import type { QueueClient } from "#shared/queue/client.ts";
import type { Clock, Limits } from "#shared/redrive/clock.ts";
import type { RedriveConfig } from "#shared/redrive/config.ts";
import { selectsEverything } from "#shared/redrive/filter.ts";
import { type DeadLetter, hasErrorAttributes } from "#shared/redrive/message.ts";
import { MoveTask, type MoveTaskPorts } from "#shared/redrive/move-task.ts";
import { ReplayPass, type ReplayPassPorts } from "#shared/redrive/pass.ts";
import { DeadLetterQueue, type ReceiveOptions } from "#shared/redrive/queue.ts";
import type { RedriveReport, Totals } from "#shared/redrive/report.ts";
import { RATE, type RedriveRequest } from "#shared/redrive/request.ts";

export interface RedrivePorts {
  readonly client: QueueClient;
  readonly config: RedriveConfig;
  readonly clock: Clock;
  readonly receiveOptions: ReceiveOptions;
  /** The maximum number of messages that a pass keeps hidden. */
  readonly maxHidden: number;
  readonly onProgress: (replayed: number, seen: number) => void;
  /** What replaces the completions queue as the receiver of the selected messages. */
  readonly sender?: ReplayPassPorts["sender"];
  readonly onOutcome?: ReplayPassPorts["onOutcome"];
  readonly maxSeen?: ReplayPassPorts["maxSeen"];
}

/** The visibility timeout covers the longest slice: Lambda's maximum of 15 minutes. */
export const RECEIVE_OPTIONS: ReceiveOptions = { visibilitySeconds: 900, waitSeconds: 2 };

/**
 * Runs one slice of a replay: all of it, or as much as the limits allow. While the report's `done` is false, call it again
 * with the same request and the report's continuation. Rejects with a SluiceError if the queue fails, or if the endpoint
 * does not support the requested method. No message is lost then.
 */
export async function redriveSlice(
  ports: RedrivePorts,
  request: RedriveRequest,
  limits: Limits,
): Promise<RedriveReport> {
  const { continuation, stop } = request;
  if (continuation?.pass === "move_task") {
    const task = await MoveTask.resume(moveTaskPorts(ports), continuation.task_handle);
    return stop ? task.cancel() : task.run(limits);
  }
  if (stop) return new ReplayPass(replayPassPorts(ports), request, continuation).end("stopped");
  if (continuation === undefined && isMoveTaskCandidate(request)) {
    const task = await startMoveTask(ports, request, limits);
    if (task !== undefined) return task.run(limits);
  }
  return new ReplayPass(replayPassPorts(ports), request, continuation).run(limits);
}

function isMoveTaskCandidate({ method, filter, dryRun, rate }: RedriveRequest): boolean {
  if (method === "move_task") return true;
  return method === "auto" && !dryRun && rate >= 1 && selectsEverything(filter);
}

/** Undefined if the queue must be replayed message by message. */
async function startMoveTask(
  ports: RedrivePorts,
  request: RedriveRequest,
  limits: Limits,
): Promise<MoveTask | undefined> {
  const isForced = request.method === "move_task";
  const movePorts = moveTaskPorts(ports);
  const isAvailable = await MoveTask.isAvailable(movePorts);
  if (isAvailable && !isForced && !(await canMoveUnchanged(ports, request, limits))) return undefined;
  const task = isAvailable ? await MoveTask.start(movePorts, request.rate) : undefined;
  if (task === undefined && isForced) {
    throw new InvalidRequestError([
      '"method" is "move_task", but the endpoint has no move tasks for this queue: omit "method"',
    ]);
  }
  return task;
}

/** Receives every message and makes it visible again. True if there are messages, and none must stay or change. */
async function canMoveUnchanged(
  ports: RedrivePorts,
  request: RedriveRequest,
  limits: Limits,
): Promise<boolean> {
  let found = 0;
  const mustReceive = new AbortController();
  const onMessage = (message: DeadLetter): void => {
    found += 1;
    if (message.replays >= ports.config.maxReplays || hasErrorAttributes(message)) mustReceive.abort();
  };
  const { onOutcome: _, maxSeen: __, ...surveyed } = replayPassPorts(ports);
  const survey = new ReplayPass(
    { ...surveyed, onMessage, onProgress: () => undefined },
    {
      ...request,
      dryRun: true,
      rate: RATE.max,
    },
  );
  const { ended } = await survey.run({
    deadlineMs: limits.deadlineMs,
    signal: AbortSignal.any([limits.signal, mustReceive.signal]),
  });
  return ended === "complete" && found > 0;
}

function moveTaskPorts({ client, config, clock, onProgress }: RedrivePorts): MoveTaskPorts {
  const { deadLetterQueueUrl, completionsQueueUrl } = config;
  return {
    client,
    deadLetterQueueUrl,
    completionsQueueUrl,
    clock,
    onProgress: (moved) => onProgress(moved, moved),
  };
}

function replayPassPorts({
  client,
  config,
  clock,
  receiveOptions,
  maxHidden,
  onProgress,
  sender = new BatchSender(client, config.completionsQueueUrl),
  onOutcome,
  maxSeen,
}: RedrivePorts): ReplayPassPorts {
  return {
    deadLetters: new DeadLetterQueue(client, config.deadLetterQueueUrl, receiveOptions),
    sender,
    ...(onOutcome === undefined ? {} : { onOutcome }),
    ...(maxSeen === undefined ? {} : { maxSeen }),
    clock,
    maxReplays: config.maxReplays,
    maxHidden,
    onProgress: ({ replayed, seen }: Totals) => onProgress(replayed, seen),
  };
}
