import type { CommonOptions } from "#cli/kit/command.ts";
import type { Terminal } from "#cli/kit/terminal.ts";
import { visibleJson, visibleLine } from "#cli/kit/visible.ts";

/** The meaning of exit code 1 for a command that judges nothing. */
export const NO_PROBLEM = "the command failed";

/** Prints an answer: as one line of JSON with `--json`, else the lines for a person. */
export function printResult(
  terminal: Terminal,
  { json }: CommonOptions,
  output: unknown,
  render: () => readonly string[],
): void {
  terminal.print(
    json === true
      ? `${visibleJson(output)}\n`
      : render()
          .map((line) => `${visibleLine(line)}\n`)
          .join(""),
  );
}
