/** Replays or purges dead letters, a slice of the queue at a time. */

import { z } from "zod";
import { type Change, changeReport, MAX_CHANGES, writeInput } from "#operate/change-report.ts";
import { describeSelection, filterOf, letterSelection, refusalOf } from "#operate/dead-letters/selection.ts";
import type { OperateContext } from "#operate/operation.ts";
import { parseJsonObject } from "#shared/contract/message.ts";
import { InvalidRequestError } from "#shared/errors.ts";
import type { BatchSender, SendResult } from "#shared/queue/batch-sender.ts";
import { SYSTEM_CLOCK } from "#shared/redrive/clock.ts";
import { readRedriveConfig } from "#shared/redrive/config.ts";
import { parseContinuation } from "#shared/redrive/continuation.ts";
import type { DeadLetter } from "#shared/redrive/message.ts";
import type { LetterOutcome } from "#shared/redrive/pass.ts";
import { type RedrivePorts, redriveSlice } from "#shared/redrive/redrive.ts";
import { type Continuation, END_REASONS, type RedriveReport } from "#shared/redrive/report.ts";
import type { Method } from "#shared/redrive/request.ts";

/** A slice is short, so that an operator can stop between two. Milliseconds. */
const SLICE_MS = 5_000;
/** Reserved before the deadline for requests in flight and for making messages visible again. */
const RESERVED_MS = 5_000;
/** A slice sees at most five receives more. */
const MAX_SEEN = MAX_CHANGES - 50;
/** The cursor has their handles, and must fit into an event of Lambda. */
const MAX_HIDDEN = 10_000;
/** Longer than a slice. A pass that dies leaves its messages hidden for so long. */
const RECEIVE_OPTIONS = { visibilitySeconds: 300, waitSeconds: 1 };
const NEVER = new AbortController().signal;

export const letterChangeInput = {
  ...writeInput,
  ...letterSelection,
  all: z.boolean().default(false).describe("The whole queue"),
  stop: z
    .boolean()
    .default(false)
    .describe("With a cursor: end the pass, and make the messages that it hides visible again"),
} as const;

const letterChange = z.object(letterChangeInput);
export type LetterChange = z.infer<typeof letterChange>;

export const letterChangeReport = changeReport.extend({
  seen: z.number().describe("Messages of the queue that were looked at so far, each counted once"),
  matching: z.number().describe("Selected by the filter, and below the limit of replays"),
  changed: z.number().describe("Replayed, or deleted"),
  failed: z.number().describe("Not changed, because of an error. They stay"),
  kept: z.number().describe("Not selected, or dead-lettered after the pass began. They stay"),
  over_limit: z.number().describe("Selected, and replayed MAX_REPLAYS times already. They stay"),
  ended: z
    .enum(END_REASONS)
    .describe(
      "complete: every message was seen. slice: the next page goes on. stopped: by the operator. held_limit: too many " +
        "messages do not match. failed: sending failed repeatedly",
    ),
  method: z.enum(["receive", "move_task"]),
  notes: z.array(z.string()).describe("Problems, one sentence each"),
});

export type LetterChangeReport = z.infer<typeof letterChangeReport>;

/** What a pass does with the selected messages. */
export interface LetterAction {
  readonly isPurge: boolean;
  readonly rate: number;
  readonly method: Method;
}

export function targetOf(input: LetterChange): string {
  return describeSelection(input);
}

/**
 * Runs one slice.
 *
 * @throws InvalidRequestError if nothing is selected, or the cursor is none of this operation.
 * @throws ConfigurationError if the environment does not name the queues.
 * @throws QueueError if the queue does not answer. No message is lost then.
 */
export async function runSlice(
  context: OperateContext,
  input: LetterChange,
  { isPurge, rate, method }: LetterAction,
): Promise<LetterChangeReport> {
  const refusal = refusalOf(input);
  if (refusal !== undefined) throw new InvalidRequestError([refusal]);
  const isDryRun = input.dry_run;
  const changes: Change[] = [];
  const request = {
    rate,
    filter: filterOf(input),
    dryRun: isDryRun,
    method,
    maxSeconds: undefined,
    continuation: readCursor(input.cursor),
    stop: input.stop && input.cursor !== undefined,
  };
  const ports: RedrivePorts = {
    client: context.sqs,
    config: configOf(context, isPurge),
    clock: SYSTEM_CLOCK,
    receiveOptions: RECEIVE_OPTIONS,
    maxHidden: MAX_HIDDEN,
    maxSeen: MAX_SEEN,
    onProgress: () => undefined,
    onOutcome: (letter, outcome) => {
      changes.push(changeOf(letter, outcome, isPurge));
    },
    ...(isPurge ? { sender: NO_SENDER } : {}),
  };
  const deadlineMs = Math.min(Date.now() + SLICE_MS, context.deadlineMs - RESERVED_MS);
  const report = await redriveSlice(ports, request, { deadlineMs, signal: NEVER });
  return reportOf(report, changes);
}

/** Without a send before it, a pass only deletes. */
const NO_SENDER: Pick<BatchSender, "send"> = {
  send: (entries) => Promise.resolve(entries.map((): SendResult => ({ ok: true }))),
};

function configOf({ environment }: OperateContext, isPurge: boolean): RedrivePorts["config"] {
  const config = readRedriveConfig(environment);
  // A message that was replayed too often is what a purge is for.
  return isPurge ? { ...config, maxReplays: Number.POSITIVE_INFINITY } : config;
}

function changeOf(letter: DeadLetter, outcome: LetterOutcome, isPurge: boolean): Change {
  const { id: target } = letter;
  const execution = parseJsonObject(letter.body)?.execution_id;
  const about = typeof execution === "string" ? ` (execution ${execution.slice(0, 100)})` : "";
  const [infinitive, past] = isPurge
    ? ["is deleted", "was deleted"]
    : ["is sent to the completions queue again", "was sent to the completions queue again"];
  switch (outcome.kind) {
    case "matching":
      return { target, status: "would_change", text: `${infinitive}${about}` };
    case "replayed":
      return { target, status: "changed", text: `${past}${about}` };
    case "over_limit":
      return {
        target,
        status: "unchanged",
        text: `stays: it was replayed ${letter.replays} times already (MAX_REPLAYS)${about}`,
      };
    case "undeleted":
      return {
        target,
        status: "failed",
        text: isPurge
          ? `stays: SQS did not confirm that it was deleted${about}`
          : `${past}, and could not be deleted: it may be replayed twice, which is harmless${about}`,
        code: "not_deleted",
      };
    case "failed":
      return { target, status: "failed", text: `stays: ${outcome.error.message}${about}`, code: "not_sent" };
  }
}

function reportOf(report: RedriveReport, changes: readonly Change[]): LetterChangeReport {
  const { continuation } = report;
  const moved: Change = {
    target: "the whole queue",
    status: "changed",
    text: `SQS moved ${report.replayed} messages to the completions queue`,
  };
  return {
    dry_run: report.dry_run,
    changes: report.method === "move_task" && report.done ? [moved] : [...changes],
    seen: report.seen,
    matching: report.matching,
    changed: report.replayed,
    failed: report.failed,
    kept: report.kept,
    over_limit: report.over_limit,
    ended: report.ended,
    method: report.method,
    notes: [...report.notes],
    ...(continuation === undefined ? {} : { next: cursorOf(continuation) }),
  };
}

function cursorOf(continuation: Continuation): string {
  return Buffer.from(JSON.stringify(continuation)).toString("base64url");
}

function readCursor(cursor: string | undefined): Continuation | undefined {
  if (cursor === undefined) return undefined;
  const errors: string[] = [];
  const continuation = parseContinuation(
    parseJsonObject(Buffer.from(cursor, "base64url").toString()) ?? "",
    errors,
  );
  if (continuation !== undefined) return continuation;
  throw new InvalidRequestError(["cursor: is not a cursor of this command: use `next` of its last answer"]);
}
