import { Argument, Option } from "commander";
import { selectionOf, selectionOptions } from "#cli/commands/dead-letter-options.ts";
import type { CliCommand, CommonOptions, ExitCode, Invocation } from "#cli/kit/command.ts";
import { plural } from "#cli/kit/format.ts";
import { printResult } from "#cli/kit/output.ts";
import { reasonOf, requirePerson } from "#cli/kit/write-command.ts";
import {
  type LetterChange,
  type LetterChangeReport,
  letterChangeReport,
} from "#operate/dead-letters/slice.ts";
import type { WriteOperation } from "#operate/operation.ts";
import { purgeDeadLetters, replayDeadLetters } from "#operate/write/dead-letters.ts";
import { InvalidRequestError } from "#shared/errors.ts";
import { METHODS, RATE } from "#shared/redrive/request.ts";

/** Changes of a preview that a person sees. The counts are exact in any case. */
const SHOWN = 20;

interface LetterCommand<Input extends LetterChange> {
  readonly name: string;
  readonly summary: string;
  readonly examples: readonly string[];
  readonly options?: readonly Option[];
  readonly operation: WriteOperation<Input, LetterChangeReport>;
  /** What was done to the messages, as `replayed`. */
  readonly verb: string;
  /** The properties of the input besides those of every change of dead letters. */
  more(options: CommonOptions): Omit<Input, keyof LetterChange>;
}

/** A command that changes dead letters slice by slice. Ctrl-C ends it between two slices, and leaves no message hidden. */
function letterCommand<Input extends LetterChange>(command: LetterCommand<Input>): CliCommand {
  const { operation, verb, more, options = [], ...rest } = command;
  return {
    ...rest,
    arguments: [new Argument("[messages...]", "ids of messages, as `dlq list` shows them")],
    options: [new Option("--all", "the whole dead-letter queue"), ...selectionOptions(), ...options],
    exitOne: "it was stopped before its end, or some messages failed",
    access: "write",
    output: letterChangeReport,
    async execute(invocation) {
      const { args, options: given, terminal, connect } = invocation;
      const selected = { ...selectionOf(args, given), all: given.all === true };
      if (!selected.all && Object.keys(selected).length === 1) {
        throw new InvalidRequestError([
          "no messages are selected: name messages, give a filter, or --all for the whole queue",
        ]);
      }
      const reason = reasonOf(given);
      const extra = more(given);
      const runner = await connect();
      const pass = (isDryRun: boolean): Promise<LetterChangeReport> =>
        runSlices(invocation, (page) =>
          runner.run(operation, {
            ...selected,
            ...extra,
            ...page,
            reason,
            dry_run: isDryRun,
          } as unknown as Input),
        );
      const print = (report: LetterChangeReport): ExitCode => {
        for (const note of report.notes) terminal.note(`  ! ${note}`);
        printResult(terminal, given, report, () => render(report, verb));
        return report.ended === "complete" && report.failed === 0 ? 0 : 1;
      };
      if (given.dryRun === true) return print(await pass(true));
      if (given.yes !== true) {
        requirePerson(terminal);
        const preview = await pass(true);
        if (preview.matching === 0 || preview.ended !== "complete") return print(preview);
        for (const line of render(preview, verb)) terminal.note(line);
        if (!(await terminal.confirm("Make these changes?", invocation.signal))) {
          terminal.note("nothing was changed");
          return 0;
        }
      }
      return print(await pass(false));
    },
  };
}

/** Runs slices until the pass ends. At Ctrl-C, one more call ends it and makes the messages visible that it hides. */
async function runSlices(
  { terminal, signal }: Invocation,
  run: (page: { readonly cursor?: string; readonly stop?: boolean }) => Promise<LetterChangeReport>,
): Promise<LetterChangeReport> {
  const changes: LetterChangeReport["changes"] = [];
  const notes: string[] = [];
  let report = await run({});
  for (;;) {
    changes.push(...report.changes);
    notes.push(...report.notes);
    if (report.next === undefined) return { ...report, changes, notes };
    terminal.progress(`${report.changed} changed of ${report.seen} seen`);
    report = await run({ cursor: report.next, ...(signal.aborted ? { stop: true } : {}) });
  }
}

const END_TEXTS: Readonly<Record<LetterChangeReport["ended"], string>> = {
  complete: "complete",
  stopped: "stopped",
  slice: "incomplete",
  held_limit: "ended early: too many messages do not match; run again with a wider filter",
  failed: "failed",
};

function render(report: LetterChangeReport, verb: string): string[] {
  const { changes, seen, matching, changed, kept, failed, over_limit: overLimit, ended } = report;
  const lines = changes.slice(0, SHOWN).map(({ target, status, text }) => `${status}  ${target}  ${text}`);
  const hidden = changes.length - lines.length;
  const done = report.dry_run ? `${matching} would be ${verb} (dry run)` : `${changed} ${verb}`;
  return [
    ...lines,
    ...(hidden > 0 ? [`… and ${plural(hidden, "more message")}: --json lists all`] : []),
    `${END_TEXTS[ended]}: ${seen} seen, ${done}, ${kept} kept, ${overLimit} over the limit, ${failed} failed`,
  ];
}

export const replayDeadLettersCommand = letterCommand({
  name: "dlq replay",
  summary: "Send dead letters to the completions queue again. Ctrl-C stops cleanly.",
  operation: replayDeadLetters,
  verb: "replayed",
  options: [
    new Option("--rate <n>", `messages per second, ${RATE.min} to ${RATE.max}`)
      .default(RATE.defaultValue)
      .argParser(Number),
    new Option("--method <method>", "how to move messages").choices(METHODS).default("auto"),
  ],
  examples: [
    "dlq replay --all --dry-run",
    "dlq replay --error-code none --reason 'Valkey was down'",
    "dlq replay 2f0c6a3e-5b0e-4f0e-8a57-3f6f2f9f1c11 --yes",
  ],
  more: ({ rate, method }) => ({ rate, method }),
});

export const purgeDeadLettersCommand = letterCommand({
  name: "dlq purge",
  summary: "Delete dead letters that no replay can help. Ctrl-C stops cleanly.",
  operation: purgeDeadLetters,
  verb: "deleted",
  examples: ["dlq purge --error-code malformed_message --dry-run", "dlq purge --older-than 10d"],
  more: () => ({}),
});
