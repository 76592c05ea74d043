/** Builds the program from its commands, and runs one command line. */

import { readFileSync } from "node:fs";
import { parseEnv } from "node:util";
import { Command, CommanderError, Option } from "commander";
import type { CliCommand, CommonOptions } from "#cli/kit/command.ts";
import { openRemoteRunner } from "#cli/kit/remote-runner.ts";
import {
  actorName,
  type DeploymentOptions,
  environmentOf,
  openRunner,
  type Runner,
} from "#cli/kit/runner.ts";
import type { Terminal } from "#cli/kit/terminal.ts";
import { visibleLine } from "#cli/kit/visible.ts";
import {
  ConfigurationError,
  describeError,
  InvalidRequestError,
  messageOf,
  ValkeyError,
} from "#shared/errors.ts";
import { type Environment, isSet } from "#shared/runtime/environment.ts";
import type { StopSignals } from "#shared/runtime/stop-signals.ts";

export interface CommandLine {
  readonly terminal: Terminal;
  readonly environment: Environment;
  readonly stop: StopSignals;
  readonly version: string;
  /** The file with variables of a deployment that is used where no other one is named. Undefined: there is none. */
  readonly defaultEnvFile?: string | undefined;
  /** Gives variables of a file to the AWS SDK, which reads only those of the process. */
  readonly adopt: (variables: Environment) => void;
}

const MAX_ERRORS_NOTED = 3;

/** Options that select the deployment. */
const DEPLOYMENT_OPTIONS = [
  new Option("--valkey-url <url>", "the Valkey server, redis://host:port (default: VALKEY_URL)"),
  new Option("--cluster", "the server is a node of a cluster (default: VALKEY_CLUSTER_MODE)"),
  new Option("--stage <name>", "run in the functions of this stage on AWS, which reach Valkey in its VPC"),
  new Option("--region <region>", "the AWS region of the stage (default: AWS_REGION, or your AWS profile)"),
];

const CHANGE_OPTIONS = [
  new Option("--dry-run", "show what would change, and change nothing"),
  new Option("--yes", "do not ask"),
  new Option("--reason <text>", "why, for the audit trail"),
];

/** Builds the program. `onExit` receives the exit code of the command that ran. */
export function createProgram(
  commands: readonly CliCommand[],
  line: CommandLine,
  onExit: (code: number) => void,
): Command {
  const program = new Command("sluice")
    .description("See, explain and repair workflows of a Sluice deployment.")
    .version(line.version)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => line.terminal.print(text),
      writeErr: (text) => noteLines(line.terminal, text.trimEnd()),
      outputError: (text, write) => write(text.replace(/^error: /, "sluice: ")),
    })
    .showSuggestionAfterError()
    .addHelpText("after", "\nThe reference of all commands is docs/cli.md.");
  for (const command of [...commands].sort((left, right) => depthOf(left) - depthOf(right))) {
    const path = command.name.split(" ");
    const name = path.pop() ?? command.name;
    const parent = path.reduce((above, group) => childOf(above, group), program);
    describe(childOf(parent, name), command).action(async (...received: unknown[]) => {
      const built = received.at(-1);
      if (!(built instanceof Command)) throw new TypeError("commander passed no command");
      onExit(await execute(command, built, line));
    });
  }
  return program;
}

function depthOf({ name }: CliCommand): number {
  return name.split(" ").length;
}

function childOf(parent: Command, name: string): Command {
  return (
    parent.commands.find((child) => child.name() === name) ??
    parent.command(name).copyInheritedSettings(parent)
  );
}

function describe(built: Command, command: CliCommand): Command {
  built.description(command.summary).allowExcessArguments(false);
  for (const argument of command.arguments ?? []) built.addArgument(argument);
  for (const option of optionsOf(command)) built.addOption(option);
  const examples = command.examples.map((example) => `  sluice ${example}`).join("\n");
  return built.addHelpText(
    "after",
    `\nExamples:\n${examples}\n\nExit codes: 0 done, 1 ${command.exitOne}, 2 wrong arguments or environment.`,
  );
}

/** All options of a command. */
function optionsOf({ access, output, options = [] }: CliCommand): readonly Option[] {
  return [
    ...options,
    ...(access === "write" ? CHANGE_OPTIONS : []),
    ...(output === undefined
      ? []
      : [new Option("--json", "print the answer as one line of JSON (schema/cli.json)")]),
    ...(access === "local" ? [] : DEPLOYMENT_OPTIONS),
    // Not --env-file: Node itself reads that option, wherever it stands.
    new Option("--environment <file>", "read variables from this file; those of the environment win"),
    new Option("--debug", "print the stack trace of an error"),
  ];
}

async function execute(command: CliCommand, built: Command, line: CommandLine): Promise<number> {
  // Groups have options of their own: lanes, and lanes pause.
  const options = built.optsWithGlobals<
    CommonOptions & DeploymentOptions & { readonly environment?: string; readonly debug?: true }
  >();
  const { terminal, stop } = line;
  let runner: Runner | undefined;
  let errors = 0;
  let file: string | undefined;
  const noteError = ({ message }: Error): void => {
    errors += 1;
    if (errors <= MAX_ERRORS_NOTED) terminal.note(`sluice: connection to Valkey failed: ${message}`);
  };
  try {
    file = envFileOf(command, options, line);
    const environment = environmentOf(options, withFile(file, line));
    return await command.execute({
      args: built.processedArgs
        .flat()
        .filter((value) => value !== undefined)
        .map(String),
      options,
      environment,
      terminal,
      signal: stop.signal,
      connect: async () => {
        const { stage, region } = options;
        runner ??=
          stage === undefined
            ? await openRunner(environment, noteError)
            : openRemoteRunner({
                stage,
                region,
                actor: actorName(),
                signal: stop.signal,
                note: (text) => terminal.note(text),
              });
        return runner;
      },
    });
  } catch (error) {
    if (stop.signal.aborted) return stop.exitCode;
    const exitCode = reportError(error, terminal, options.debug === true);
    if (errors > 0 && file !== undefined && file === line.defaultEnvFile) {
      terminal.note(`sluice: if \`sluice dev\` does not run any more, start it again, or delete ${file}`);
    }
    return exitCode;
  } finally {
    runner?.[Symbol.dispose]();
  }
}

function envFileOf(
  { access }: CliCommand,
  { environment: file, valkeyUrl, stage }: DeploymentOptions & { readonly environment?: string },
  { environment, defaultEnvFile, terminal }: CommandLine,
): string | undefined {
  if (file !== undefined) return file;
  const isNamed = valkeyUrl !== undefined || stage !== undefined || isSet(environment, "VALKEY_URL");
  if (access === "local" || isNamed || defaultEnvFile === undefined) return undefined;
  terminal.note(`sluice: the deployment is that of \`sluice dev\` (${defaultEnvFile})`);
  return defaultEnvFile;
}

function withFile(file: string | undefined, { environment, adopt }: CommandLine): Environment {
  if (file === undefined) return environment;
  try {
    const variables = parseEnv(readFileSync(file, "utf8"));
    adopt(variables);
    return { ...variables, ...environment };
  } catch (error) {
    throw new InvalidRequestError([`--environment cannot be read: ${messageOf(error)}`]);
  }
}

function reportError(error: unknown, terminal: Terminal, isDebug: boolean): number {
  const isUsage = error instanceof ConfigurationError || error instanceof InvalidRequestError;
  const text = error instanceof Error && !isUsage ? describeError(error) : messageOf(error);
  noteLines(terminal, `sluice: ${text}`);
  if (error instanceof ValkeyError)
    noteLines(terminal, "next: `sluice doctor` tells what is wrong with Valkey");
  if (isDebug && error instanceof Error && error.stack !== undefined) noteLines(terminal, error.stack);
  return isUsage ? 2 : 1;
}

function noteLines(terminal: Terminal, text: string): void {
  for (const line of text.split("\n")) terminal.note(line);
}

/** Notes show names, too, for example in the preview of a change. */
function withVisibleNotes(terminal: Terminal): Terminal {
  return { ...terminal, note: (line) => terminal.note(visibleLine(line)) };
}

/** Runs a command line, and returns the exit code. Never rejects. */
export async function runCli(
  commands: readonly CliCommand[],
  args: readonly string[],
  given: CommandLine,
): Promise<number> {
  const line = { ...given, terminal: withVisibleNotes(given.terminal) };
  let exitCode = 0;
  const program = createProgram(commands, line, (code) => {
    exitCode = code;
  });
  try {
    await program.parseAsync(args, { from: "user" });
    return exitCode;
  } catch (error) {
    // commander has written its message.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    return reportError(error, line.terminal, args.includes("--debug"));
  }
}
