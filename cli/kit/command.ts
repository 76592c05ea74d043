/** What a command of the command line is. `cli/kit/program.ts` builds the program from them, and scripts/ its reference. */

import type { Argument, Option, OptionValues } from "commander";
import type { z } from "zod";
import type { Runner } from "#cli/kit/runner.ts";
import type { Terminal } from "#cli/kit/terminal.ts";
import type { Environment } from "#shared/runtime/environment.ts";

/** 0: done. 1: the command found something wrong, or some change failed. 2, for wrong use, is the program's. */
export type ExitCode = 0 | 1;

/** The options that every command with a deployment has, and those of changes. */
export interface CommonOptions extends OptionValues {
  readonly json?: true;
  readonly dryRun?: true;
  readonly yes?: true;
  readonly reason?: string;
}

/** One call of a command. */
export interface Invocation {
  readonly args: readonly string[];
  readonly options: CommonOptions;
  readonly environment: Environment;
  readonly terminal: Terminal;
  /** Aborts at Ctrl-C. */
  readonly signal: AbortSignal;
  /** Connects to the deployment that the options or the environment name. The program closes it. */
  connect(): Promise<Runner>;
}

export interface CliCommand {
  /** `explain`, or `lanes pause` for a member of a group. */
  readonly name: string;
  readonly summary: string;
  readonly arguments?: readonly Argument[];
  readonly options?: readonly Option[];
  /** Command lines without the leading `sluice`. */
  readonly examples: readonly string[];
  /** What exit code 1 means. */
  readonly exitOne: string;
  /** `read` and `write` work on a deployment, and have the options of one. `local` does not. */
  readonly access: "read" | "write" | "local";
  /** What `--json` prints. Undefined: the command has no `--json`. */
  readonly output?: z.ZodType;
  execute(invocation: Invocation): Promise<ExitCode>;
}
