/** Why an upstream's end has not reached an execution: its completion is lost, late, dead-lettered, or at the depth limit. */

import { type Cause, cause } from "#operate/explain/causes.ts";
import { type DeadLetterSearch, type FoundLetter, findDeadLetters } from "#operate/explain/dead-letters.ts";
import { type ExplainContext, sluice } from "#operate/explain/read.ts";
import { ago, duration, plural } from "#operate/words.ts";
import { readAll } from "#shared/consistency/read.ts";
import { command } from "#shared/contract/command.ts";
import type { ExecutionId, FlowId } from "#shared/contract/ids.ts";
import { fieldText } from "#shared/contract/record.ts";
import { parseDepthLimit } from "#shared/dispatch/depth-limit.ts";
import { messageOf, QueueError } from "#shared/errors.ts";
import { SqsBacklog } from "#shared/queue/backlog.ts";
import { parseMark } from "#shared/reconcile/resend-policy.ts";

/** Messages in the completions queue with which dispatch is not behind. */
const NO_BACKLOG = 10;
/** By how much the clock of dispatch may be behind the server's. */
const CLOCK_DIFFERENCE_MS = 10_000;

/** Completions that should have arrived by now: those of ended executions whose children still wait. */
export interface Overdue {
  /** All of them. */
  readonly executions: ReadonlySet<ExecutionId>;
  /** The longest ago first. */
  readonly examples: readonly OverdueExecution[];
  readonly flowId: FlowId | undefined;
}

export interface OverdueExecution {
  readonly id: ExecutionId;
  readonly edge?: string;
  readonly outcome: string;
  readonly completedAt: string;
  readonly endedAtMs: number | undefined;
}

/** The times by which a completion counts as lost, in milliseconds. */
export interface Clock {
  readonly nowMs: number;
  readonly graceMs: number;
}

/**
 * Explains overdue completions. `missing` describes the basic finding; further causes say where the completion is, as far as
 * the marks in Valkey and the queues tell.
 */
export async function overdueCauses(
  context: ExplainContext,
  overdue: Overdue,
  clock: Clock,
  missing: (details: string) => Cause,
): Promise<Cause[]> {
  if (overdue.executions.size === 0) return [];
  const marks = await readCompletionMarks(context, overdue);
  const [letters, backlog] = await Promise.all([lettersOf(context, overdue), backlogOf(context)]);
  const causes = [
    missing(
      [
        describeResends(marks, clock),
        ...(typeof backlog === "number"
          ? [`The completions queue holds ${plural(backlog, "message")}.`]
          : []),
        ...(typeof backlog === "string" ? [backlog] : []),
        ...(typeof letters === "string" ? [letters] : describeSearch(letters)),
      ].join(" "),
    ),
    ...depthCauses(overdue, marks, clock),
    ...(typeof letters === "object" ? letterCauses(letters, clock) : []),
  ];
  if (typeof backlog === "number" && backlog > NO_BACKLOG) {
    causes.push(
      cause(
        "dispatch_behind",
        `The completions queue holds ${plural(backlog, "message")}: dispatch is behind, and the completion may be one of them.`,
        { count: backlog, next: [sluice("doctor"), sluice("dlq", "list")] },
      ),
    );
  }
  return causes;
}

interface CompletionMarks {
  readonly execution: OverdueExecution;
  readonly resent: string;
  readonly depthLimit: string;
}

async function readCompletionMarks(
  context: ExplainContext,
  { examples, flowId }: Overdue,
): Promise<CompletionMarks[]> {
  const replies = await readAll(
    context,
    examples.flatMap(({ id }) => {
      const keys = context.router.execKeys(id);
      return [
        command(keys.partition, "get", flowId === undefined ? keys.depthLimit : keys.resent(flowId)),
        command(keys.partition, "get", keys.depthLimit),
      ];
    }),
  );
  return examples.map((execution, position) => ({
    execution,
    resent: flowId === undefined ? "" : fieldText(replies[2 * position]),
    depthLimit: fieldText(replies[2 * position + 1]),
  }));
}

function describeResends(marks: readonly CompletionMarks[], { nowMs, graceMs }: Clock): string {
  const sent = marks.flatMap(({ execution, resent }) => {
    const mark = parseMark(resent);
    return mark !== undefined && mark.end === execution.completedAt ? [mark] : [];
  });
  const [mark] = sent.toSorted((left, right) => right.sends - left.sends);
  if (mark === undefined) {
    return (
      `The reconciler sends completions that are older than ${duration(graceMs)}, once a minute; it has not sent ` +
      "this one yet."
    );
  }
  return `The reconciler has sent it ${plural(mark.sends, "time")}, the last time ${ago(mark.sentAtMs, nowMs)}.`;
}

function depthCauses(overdue: Overdue, marks: readonly CompletionMarks[], { nowMs }: Clock): Cause[] {
  const limited = marks.flatMap(({ execution, depthLimit }) => {
    const mark = parseDepthLimit(depthLimit);
    // A mark of an earlier end, before a replay, does not count.
    const isCurrent = mark !== undefined && mark.atMs + CLOCK_DIFFERENCE_MS >= (execution.endedAtMs ?? 0);
    return isCurrent ? [{ execution, mark }] : [];
  });
  const [first] = limited;
  if (first === undefined) return [];
  const { mark } = first;
  const text =
    mark.kind === "stopped"
      ? `The cascade reached MAX_CASCADE_DEPTH at depth ${mark.depth} and was stopped ${ago(mark.atMs, nowMs)}, after ` +
        `${plural(mark.generation, "restart")}. The reconciler continues it with a new completion.`
      : `The cascade reached MAX_CASCADE_DEPTH at depth ${mark.depth} and was restarted ${ago(mark.atMs, nowMs)} (restart ` +
        `${mark.generation + 1}). The restarted completion is delayed, by a minute unless CASCADE_RESTART_SECONDS says otherwise.`;
  return [
    cause("depth_limit_reached", text, {
      count: limited.length,
      involved: { executions: limited.map(({ execution }) => execution.id) },
      next: [
        sluice("publish", first.execution.id, "--dry-run"),
        ...(overdue.flowId === undefined ? [] : [sluice("reconcile", "--flow", overdue.flowId, "--dry-run")]),
      ],
    }),
  ];
}

function letterCauses({ found }: DeadLetterSearch, { nowMs }: Clock): Cause[] {
  return [...Map.groupBy(found, ({ errorCode }) => errorCode)].map(([code, letters]) => {
    const [first] = letters;
    const reason =
      code === undefined
        ? "after too many failed deliveries: the log of dispatch has the errors"
        : `with the reason ${code}${first?.errorMessage ? ` (${first.errorMessage})` : ""}`;
    return cause(
      "completion_dead_lettered",
      `${plural(letters.length, "completion")} ${letters.length === 1 ? "is" : "are"} in the dead-letter queue, ${reason}. ` +
        `${describeLetter(first, nowMs)}`,
      {
        count: letters.length,
        involved: {
          executions: letters.flatMap(({ executionId }) => executionId ?? []),
          messages: letters.map(({ messageId }) => messageId),
        },
        next: [
          ...(first === undefined ? [] : [sluice("dlq", "show", first.messageId)]),
          ...(first === undefined || code === "malformed_message"
            ? []
            : [sluice("dlq", "replay", first.messageId, "--dry-run")]),
          ...letters
            .slice(0, 1)
            .flatMap(({ executionId }) =>
              executionId === undefined ? [] : [sluice("publish", executionId, "--dry-run")],
            ),
        ],
      },
    );
  });
}

function describeLetter(letter: FoundLetter | undefined, nowMs: number): string {
  if (letter === undefined) return "";
  const named = letter.executionId === undefined ? "It names no valid execution, only this flow." : "";
  return [`Message ${letter.messageId} was sent ${ago(letter.sentAtMs, nowMs)}.`, named].join(" ").trim();
}

function describeSearch(search: DeadLetterSearch | undefined): string[] {
  if (search === undefined)
    return ["DEAD_LETTER_QUEUE_URL is not set, so the dead-letter queue was not searched."];
  if (!search.isComplete) {
    return [
      `Only the first ${plural(search.seen, "message")} of the dead-letter queue ${search.seen === 1 ? "was" : "were"} searched.`,
    ];
  }
  return search.found.length === 0 ? ["It is not in the dead-letter queue."] : [];
}

async function lettersOf(
  context: ExplainContext,
  { executions, flowId }: Overdue,
): Promise<DeadLetterSearch | string | undefined> {
  try {
    return await findDeadLetters(context, executions, flowId);
  } catch (error) {
    if (!(error instanceof QueueError)) throw error;
    return `The dead-letter queue could not be searched: ${messageOf(error)}.`;
  }
}

/** A number of messages, why it could not be read, or undefined without a queue. */
async function backlogOf({ sqs, queues }: ExplainContext): Promise<number | string | undefined> {
  if (queues.completions === undefined) return undefined;
  try {
    return await new SqsBacklog(sqs, queues.completions).count();
  } catch (error) {
    if (!(error instanceof QueueError)) throw error;
    return `The completions queue could not be read: ${messageOf(error)}.`;
  }
}
