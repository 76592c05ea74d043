import type { Argument, Option } from "commander";
import type { CliCommand, CommonOptions, Invocation } from "#cli/kit/command.ts";
import { plural } from "#cli/kit/format.ts";
import { printResult } from "#cli/kit/output.ts";
import type { Style, Terminal } from "#cli/kit/terminal.ts";
import { CHANGE_STATUSES, type Change, type ChangeReport, changeReport } from "#operate/change-report.ts";
import type { WriteInput, WriteOperation } from "#operate/operation.ts";
import { InvalidRequestError } from "#shared/errors.ts";

/** A command that previews the changes of one operation, asks, and makes them. */
export interface WriteCommand<Input extends WriteInput> {
  readonly name: string;
  readonly summary: string;
  readonly operation: WriteOperation<Input, ChangeReport>;
  readonly arguments?: readonly Argument[];
  readonly options?: readonly Option[];
  readonly examples: readonly string[];
  /** The input without the parts that all changes share. Throws an InvalidRequestError, for example for an empty filter. */
  input(args: readonly string[], options: CommonOptions): Omit<Input, keyof WriteInput>;
}

const MAX_REASON = 1_000;
/** Changes that a preview lists. The counts are exact in any case. */
const SHOWN = 20;

export function writeCommand<Input extends WriteInput>(command: WriteCommand<Input>): CliCommand {
  const { operation, input, ...rest } = command;
  return {
    ...rest,
    exitOne: "some changes failed, or the command failed",
    access: "write",
    output: changeReport,
    async execute(invocation) {
      const { args, options, terminal, connect } = invocation;
      const request = input(args, options);
      const reason = reasonOf(options);
      const runner = await connect();
      const run = async (isDryRun: boolean): Promise<ChangeReport> => {
        const changes: Change[] = [];
        let cursor: string | undefined;
        do {
          const page: ChangeReport = await runner.run(operation, {
            ...request,
            dry_run: isDryRun,
            reason,
            ...(cursor === undefined ? {} : { cursor }),
          } as Input);
          changes.push(...page.changes);
          cursor = page.next;
          if (cursor !== undefined) terminal.progress(describeCounts(changes, isDryRun));
          invocation.signal.throwIfAborted();
        } while (cursor !== undefined);
        return { dry_run: isDryRun, changes };
      };
      const done = await previewAndRun(invocation, run);
      printResult(terminal, options, done, () => renderChanges(done, terminal.style));
      return done.changes.some(({ status }) => status === "failed") ? 1 : 0;
    },
  };
}

/** The preview if nothing is to be done, else what was done. */
async function previewAndRun(
  { options, terminal, signal }: Invocation,
  run: (isDryRun: boolean) => Promise<ChangeReport>,
): Promise<ChangeReport> {
  if (options.dryRun === true) return run(true);
  if (options.yes === true) return run(false);
  requirePerson(terminal);
  const preview = await run(true);
  if (!preview.changes.some(({ status }) => status === "would_change")) return preview;
  for (const line of renderChanges(preview, terminal.style)) terminal.note(line);
  if (await terminal.confirm("Make these changes?", signal)) return run(false);
  terminal.note("nothing was changed");
  return { dry_run: true, changes: [] };
}

/** Throws an InvalidRequestError unless a person can answer a question. */
export function requirePerson({ isInteractive }: Terminal): void {
  if (isInteractive) return;
  throw new InvalidRequestError([
    "this command changes state, and standard input is not a terminal: add --dry-run to see the changes, or --yes to make them",
  ]);
}

/** The text of `--reason`. Throws an InvalidRequestError if it is too long. */
export function reasonOf({ reason = "" }: CommonOptions): string {
  if (reason.length <= MAX_REASON) return reason;
  throw new InvalidRequestError([`--reason has ${reason.length} characters: at most ${MAX_REASON} are kept`]);
}

function renderChanges({ dry_run: isDryRun, changes }: ChangeReport, style: Style): string[] {
  const lines = changes
    .slice(0, SHOWN)
    .map(({ target, task, status, text }) =>
      [colored(status, style), target, ...(task === undefined ? [] : [style.bold(task)]), text].join("  "),
    );
  const hidden = changes.length - lines.length;
  return [
    ...lines,
    ...(hidden > 0 ? [style.dim(`… and ${plural(hidden, "more target")}: --json lists all`)] : []),
    describeCounts(changes, isDryRun),
  ];
}

const LABELS: Readonly<Record<Change["status"], string>> = {
  would_change: "would change",
  changed: "changed",
  unchanged: "unchanged",
  failed: "failed",
};

function colored(status: Change["status"], style: Style): string {
  const text = LABELS[status].padEnd("would change".length);
  if (status === "failed") return style.red(text);
  return status === "unchanged" ? style.dim(text) : style.green(text);
}

function describeCounts(changes: readonly Change[], isDryRun: boolean): string {
  const counts = CHANGE_STATUSES.flatMap((status) => {
    const count = changes.filter((change) => change.status === status).length;
    return count === 0 ? [] : [`${count} ${LABELS[status]}`];
  });
  const text = counts.length === 0 ? "nothing matches" : counts.join(", ");
  return isDryRun ? `dry run: ${text}` : text;
}
