import type { Argument, Option } from "commander";
import type { CliCommand, CommonOptions, ExitCode } from "#cli/kit/command.ts";
import { NO_PROBLEM, printResult } from "#cli/kit/output.ts";
import type { Style } from "#cli/kit/terminal.ts";
import type { ReadOperation } from "#operate/operation.ts";

/** A command that runs one read operation and shows its answer. */
export interface ReadCommand<Input, Output> {
  readonly name: string;
  readonly summary: string;
  readonly operation: ReadOperation<Input, Output>;
  readonly arguments?: readonly Argument[];
  readonly options?: readonly Option[];
  readonly examples: readonly string[];
  /** What exit code 1 means. Default: that the command failed. */
  readonly exitOne?: string;
  /** Throws an InvalidRequestError. */
  input(args: readonly string[], options: CommonOptions): Input;
  /** The answer as lines for a person. */
  render(output: Output, style: Style, options: CommonOptions): readonly string[];
  /** Default: 0. */
  exitCode?(output: Output): ExitCode;
  /** Runs the operation as often as needed, for commands that join pages. Default: once. */
  collect?(run: (input: Input) => Promise<Output>, input: Input): Promise<Output>;
}

export function readCommand<Input, Output>(command: ReadCommand<Input, Output>): CliCommand {
  const { operation, input, render, exitCode, collect, exitOne, ...rest } = command;
  return {
    ...rest,
    exitOne: exitOne ?? NO_PROBLEM,
    access: "read",
    output: operation.output,
    async execute({ args, options, terminal, connect }) {
      const request = input(args, options);
      const runner = await connect();
      const run = (one: Input): Promise<Output> => runner.run(operation, one);
      const output = await (collect === undefined ? run(request) : collect(run, request));
      printResult(terminal, options, output, () => render(output, terminal.style, options));
      return exitCode?.(output) ?? 0;
    },
  };
}
