/** The reference of the command line: docs/cli.md and schema/cli.json. */

import type { Command, Option } from "commander";
import { z } from "zod";
import type { CliCommand } from "#cli/kit/command.ts";
import { createProgram } from "#cli/kit/program.ts";
import { styleFor } from "#cli/kit/terminal.ts";

const INTRODUCTION = `# Command line

\`npx sluice\`, or \`npm run sluice --\` in a checkout. This page is generated: run \`npm run docs:cli\` after a
change.

A command works on the deployment that \`--valkey-url\`, \`--environment\` or the environment names
([configuration.md](configuration.md)). On AWS, where Valkey is in a VPC, \`--stage prod\` runs it in
[two functions of that stage](deploy.md#operators). Output is for a person, or one line of JSON with \`--json\`:
[schema/cli.json](../schema/cli.json) has a JSON schema for each command, under \`$defs\`. Times are milliseconds since the epoch.

Exit codes: **0** done, **1** the command found something wrong or failed, **2** wrong arguments or environment.

A command that changes state shows the changes and asks. \`--dry-run\` only shows them, \`--yes\` does not ask; without a terminal
one of the two is required. Each such command writes one entry to the audit trail before its first change: \`sluice audit\`.
`;

/** Returns docs/cli.md. */
export function cliReference(commands: readonly CliCommand[]): string {
  const program = programOf(commands);
  const built = (name: string): Command => {
    const found = name
      .split(" ")
      .reduce<Command | undefined>(
        (above, part) => above?.commands.find((one) => one.name() === part),
        program,
      );
    if (found === undefined) throw new Error(`the program lacks the command ${name}`);
    return found;
  };
  const overview = commands.map(
    ({ name, summary, access }) =>
      `| [\`${name}\`](#${name.replaceAll(" ", "-")}) | ${access} | ${summary} |`,
  );
  const sections = commands.map((command) => section(command, built(command.name)));
  return [
    INTRODUCTION,
    "| command | access | does |",
    "|---|---|---|",
    ...overview,
    "",
    sections.join("\n"),
  ].join("\n");
}

function section({ name, summary, examples, exitOne }: CliCommand, built: Command): string {
  const words = built.registeredArguments.map((argument) => {
    const { required, variadic } = argument;
    const text = variadic ? `${argument.name()}...` : argument.name();
    return required ? ` <${text}>` : ` [${text}]`;
  });
  const argumentRows = built.registeredArguments.map(
    (argument) => `| \`${argument.name()}\` | ${cell(argument.description)} |`,
  );
  const optionRows = built.options.map(
    (option) => `| \`${cell(option.flags)}\` | ${cell(described(option))} |`,
  );
  return [
    `## ${name}`,
    "",
    summary,
    "",
    "```",
    `sluice ${name}${words.join("")} [options]`,
    "```",
    "",
    "| argument or option | meaning |",
    "|---|---|",
    ...argumentRows,
    ...optionRows,
    "",
    `Exit code 1: ${exitOne}.`,
    "",
    "```sh",
    ...examples.map((example) => `sluice ${example}`),
    "```",
    "",
  ].join("\n");
}

function described(option: Option): string {
  const choices = option.argChoices === undefined ? "" : ` (${option.argChoices.join(", ")})`;
  const preset = option.defaultValue === undefined ? "" : ` (default: ${String(option.defaultValue)})`;
  return `${option.description}${choices}${preset}`;
}

function cell(text: string): string {
  return text.replaceAll("|", "\\|");
}

/** Returns schema/cli.json: the JSON schema of what each command prints with `--json`, by the command's name. */
export function cliSchema(commands: readonly CliCommand[]): string {
  const schemas = commands.flatMap(({ name, output }) => {
    if (output === undefined) return [];
    const { $schema: _, ...schema } = z.toJSONSchema(output);
    return [[name, schema] as const];
  });
  const document = {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    title: "What the commands of sluice print with --json",
    $defs: Object.fromEntries(schemas),
  };
  return `${JSON.stringify(document, undefined, 2)}\n`;
}

function programOf(commands: readonly CliCommand[]): Command {
  const unused = (): void => undefined;
  return createProgram(
    commands,
    {
      terminal: {
        print: unused,
        note: unused,
        progress: unused,
        showsProgress: false,
        isInteractive: false,
        style: styleFor(false, 100),
        confirm: () => Promise.resolve(false),
      },
      environment: {},
      stop: { signal: new AbortController().signal, exitCode: 0 },
      version: "",
      adopt: unused,
    },
    unused,
  );
}
