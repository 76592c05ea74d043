import { Argument, Option } from "commander";
import { selectionOf, selectionOptions } from "#cli/commands/dead-letter-options.ts";
import { integer } from "#cli/kit/arguments.ts";
import { duration, plural, time } from "#cli/kit/format.ts";
import { readCommand } from "#cli/kit/read-command.ts";
import { table } from "#cli/kit/table.ts";
import type { Style } from "#cli/kit/terminal.ts";
import type { LetterReport } from "#operate/dead-letters/letter.ts";
import { listDeadLetters, showDeadLetter } from "#operate/read/dead-letters.ts";

export const listDeadLettersCommand = readCommand({
  name: "dlq list",
  summary: "List dead letters: why each was given up, and what `explain` says about its execution.",
  operation: listDeadLetters,
  options: [
    ...selectionOptions(),
    new Option("--limit <n>", "messages to list, 1 to 1000").default(100).argParser(integer),
  ],
  examples: ["dlq list", "dlq list --error-code protocol_error --older-than 2h --json"],
  input: (_, { limit, ...options }) => ({ ...selectionOf([], options), limit }),
  render: ({ messages, seen, complete, approximate_total: total, approximate_hidden: hidden }, style) => [
    ...(messages.length === 0 ? [] : listOf(messages, style)),
    `${plural(messages.length, "message")} shown, ${seen.toLocaleString("en-US")} looked at, about ` +
      `${total.toLocaleString("en-US")} in the dead-letter queue` +
      `${hidden === 0 ? "" : `, ${hidden.toLocaleString("en-US")} of them hidden by another receiver`}`,
    ...(complete ? [] : [style.dim("not the whole queue was looked at: raise --limit, or filter")]),
    ...(messages.length === 0
      ? []
      : [style.dim("next: sluice dlq show <message>, sluice dlq replay --all --dry-run")]),
  ],
});

function listOf(messages: readonly LetterReport[], style: Style): string[] {
  return table([
    ["message", "error code", "age", "received", "replays", "execution", "explain"].map(style.dim),
    ...messages.map((message) => [
      message.message_id,
      message.error_code ?? "none",
      message.age_ms === undefined ? "" : duration(message.age_ms),
      String(message.receive_count ?? ""),
      String(message.replays),
      message.execution_id ?? "none",
      message.explanation?.summary ?? message.error_message ?? "",
    ]),
  ]).map((line) => line.slice(0, Math.max(style.columns, MIN_WIDTH)));
}

/** Ids stay whole on a narrow terminal. */
const MIN_WIDTH = 140;

export const showDeadLetterCommand = readCommand({
  name: "dlq show",
  summary: "Show one dead letter whole: body, attributes, reason, and what `explain` says.",
  operation: showDeadLetter,
  arguments: [new Argument("<message>", "the id of the message, as `dlq list` shows it")],
  examples: ["dlq show 2f0c6a3e-5b0e-4f0e-8a57-3f6f2f9f1c11"],
  exitOne: "the message was not found, or the command failed",
  input: ([id = ""]) => ({ message_id: id }),
  exitCode: ({ message }) => (message === undefined ? 1 : 0),
  render: ({ message, attributes = {}, seen, complete }, style) => {
    if (message === undefined) {
      const rest = complete
        ? "the queue has no other visible message"
        : "the queue has more: `dlq list` with a filter finds them";
      return [`not found among ${plural(seen, "message")}: ${rest}`];
    }
    const { explanation } = message;
    return [
      style.bold(message.message_id),
      ...factsOf(message),
      ...Object.entries(attributes).map(([name, value]) => `  ${style.dim(name)} ${value}`),
      "",
      ...message.body.split("\n"),
      ...(explanation === undefined
        ? []
        : [
            "",
            `${style.bold("explain")} ${explanation.summary}`,
            ...explanation.next.map((line) => `  ${line}`),
          ]),
    ];
  },
});

function factsOf(message: LetterReport): string[] {
  const reason =
    message.error_code === undefined
      ? "moved by the redrive policy after too many failed deliveries: the log of dispatch has the errors"
      : `${message.error_code}: ${message.error_message ?? ""}`;
  const age = message.age_ms === undefined ? "" : ` (${duration(message.age_ms)} ago)`;
  const sent = message.sent_at === undefined ? "at an unknown time" : `${time(message.sent_at)}${age}`;
  return [
    reason,
    `sent ${sent}, received ${message.receive_count ?? "an unknown number of"} times, replayed ${message.replays} times`,
    ...(message.execution_id === undefined ? [] : [`execution ${message.execution_id}`]),
  ];
}
