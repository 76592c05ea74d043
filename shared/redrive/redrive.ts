/**
 * Replay: dead letters go back to the completions queue.
 *
 * A move task of SQS moves a queue by itself, but it cannot choose: it takes what was replayed too often along, and
 * leaves the reasons of the last failure on the messages. So the whole queue goes by a move task where none of its
 * messages has to stay or to be changed, which a survey finds out, and message by message otherwise.
 */

import { InvalidRequestError } from "#shared/errors.ts";
import { BatchSender } from "#shared/queue/batch-sender.ts";
import type { QueueClient } from "#shared/queue/client.ts";
import type { Clock, Limits } from "#shared/redrive/clock.ts";
import type { RedriveConfig } from "#shared/redrive/config.ts";
import { selectsEverything } from "#shared/redrive/filter.ts";
import { type DeadMessage, hasReason } from "#shared/redrive/message.ts";
import { type MovePorts, MoveTask } from "#shared/redrive/move-task.ts";
import { Pass, type PassPorts } from "#shared/redrive/pass.ts";
import { DeadLetterQueue, type Reading } from "#shared/redrive/queue.ts";
import type { RedriveReport, Totals } from "#shared/redrive/report.ts";
import { RATE, type RedriveRequest } from "#shared/redrive/request.ts";

export interface RedrivePorts {
  readonly client: QueueClient;
  readonly config: RedriveConfig;
  readonly clock: Clock;
  readonly reading: Reading;
  /** Messages that a pass may keep hidden at once. */
  readonly maxHeld: number;
  readonly onProgress: (replayed: number, seen: number) => void;
}

/** Hidden long enough for a slice of Lambda's greatest length. */
export const READING: Reading = { visibilitySeconds: 900, waitSeconds: 2 };

/**
 * One slice of a replay: all of it, or as much as the limits allow. While `done` is false, the report's continuation
 * is to be given back with the same request. Rejects with a SluiceError where the queue fails or the request asks for
 * what the endpoint does not have; nothing is lost then.
 */
export async function redriveSlice(
  ports: RedrivePorts,
  request: RedriveRequest,
  limits: Limits,
): Promise<RedriveReport> {
  const { continuation, stop } = request;
  if (continuation?.pass === "move_task") {
    const task = await MoveTask.resume(movePortsOf(ports), continuation.task_handle);
    return stop ? task.cancel() : task.run(limits);
  }
  if (stop) return new Pass(passPortsOf(ports), request, continuation).end("stopped");
  if (continuation === undefined && mayMove(request)) {
    const task = await startMoveTask(ports, request, limits);
    if (task !== undefined) return task.run(limits);
  }
  return new Pass(passPortsOf(ports), request, continuation).run(limits);
}

function mayMove({ method, filter, dryRun, rate }: RedriveRequest): boolean {
  if (method === "move_task") return true;
  return method === "auto" && !dryRun && rate >= 1 && selectsEverything(filter);
}

/** Undefined: the queue goes message by message. */
async function startMoveTask(
  ports: RedrivePorts,
  request: RedriveRequest,
  limits: Limits,
): Promise<MoveTask | undefined> {
  const isForced = request.method === "move_task";
  const movePorts = movePortsOf(ports);
  const isAvailable = await MoveTask.isAvailable(movePorts);
  if (isAvailable && !isForced && !(await goesUnchanged(ports, request, limits))) return undefined;
  const task = isAvailable ? await MoveTask.start(movePorts, request.rate) : undefined;
  if (task === undefined && isForced) {
    throw new InvalidRequestError([
      '"method" is "move_task", and the queue\'s endpoint has none, or not for this queue: leave "method" out',
    ]);
  }
  return task;
}

/** Looks at every message, and puts it back: whether the queue has some, and none has to stay or to be changed. */
async function goesUnchanged(ports: RedrivePorts, request: RedriveRequest, limits: Limits): Promise<boolean> {
  let found = 0;
  const changing = new AbortController();
  const onMessage = (message: DeadMessage): void => {
    found += 1;
    if (message.replays >= ports.config.maxReplays || hasReason(message)) changing.abort();
  };
  const survey = new Pass(
    { ...passPortsOf(ports), onMessage, onProgress: () => undefined },
    {
      ...request,
      dryRun: true,
      rate: RATE.most,
    },
  );
  const { ended } = await survey.run({
    deadlineMs: limits.deadlineMs,
    signal: AbortSignal.any([limits.signal, changing.signal]),
  });
  return ended === "complete" && found > 0;
}

function movePortsOf({ client, config, clock, onProgress }: RedrivePorts): MovePorts {
  const { deadLetterQueueUrl, completionsQueueUrl } = config;
  return {
    client,
    deadLetterQueueUrl,
    completionsQueueUrl,
    clock,
    onProgress: (moved) => onProgress(moved, moved),
  };
}

function passPortsOf({ client, config, clock, reading, maxHeld, onProgress }: RedrivePorts): PassPorts {
  return {
    deadLetters: new DeadLetterQueue(client, config.deadLetterQueueUrl, reading),
    sender: new BatchSender(client, config.completionsQueueUrl),
    clock,
    maxReplays: config.maxReplays,
    maxHeld,
    onProgress: ({ replayed, seen }: Totals) => onProgress(replayed, seen),
  };
}
