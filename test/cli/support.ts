/** Runs command lines in this process, and checks their JSON. */

import { readFileSync } from "node:fs";
import { Ajv2020 } from "ajv/dist/2020.js";
import { expect } from "vitest";
import { COMMANDS } from "#cli/commands.ts";
import { runCli } from "#cli/kit/program.ts";
import { styleFor } from "#cli/kit/terminal.ts";
import type { Environment } from "#shared/runtime/environment.ts";
import { asOperator } from "#test/support/operators.ts";
import type { Deployment } from "#test/support/valkey.ts";

/** A command line that has ended. */
export interface EndedCommand {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  /** The questions that were asked. */
  readonly questions: readonly string[];
}

export interface CommandOptions {
  readonly environment?: Environment;
  /** A person's answer to every question. Undefined: standard input is not a terminal. */
  readonly answer?: "yes" | "no";
  readonly signal?: AbortSignal;
  /** Called with each line that is written to standard error. */
  readonly onNote?: (line: string) => void;
}

/**
 * Runs `sluice` with these arguments. The program is the real one; only its terminal records what is written.
 *
 * @example
 * const { code, stdout } = await sluice(["flows", "--json"], { environment: environmentFor(deployment) });
 */
export async function sluice(
  args: readonly string[],
  { environment = {}, answer, signal = new AbortController().signal, onNote }: CommandOptions = {},
): Promise<EndedCommand> {
  let stdout = "";
  let stderr = "";
  const questions: string[] = [];
  const code = await runCli(COMMANDS, args, {
    terminal: {
      print: (text) => {
        stdout += text;
      },
      note: (line) => {
        stderr += `${line}\n`;
        onNote?.(line);
      },
      progress: () => undefined,
      showsProgress: false,
      isInteractive: answer !== undefined,
      style: styleFor(false, 100),
      confirm: (question) => {
        questions.push(question);
        return Promise.resolve(answer === "yes");
      },
    },
    environment: await asOperatorOf(args, environment),
    stop: { signal, exitCode: 130 },
    version: "0.0.0-test",
    adopt: () => undefined,
  });
  return { code, stdout, stderr, questions };
}

/** The environment with the Valkey user of the function in which `--stage` would run the command. */
async function asOperatorOf(args: readonly string[], environment: Environment): Promise<Environment> {
  const line = `${args.join(" ")} `;
  const command = COMMANDS.toSorted((one, other) => other.name.length - one.name.length).find(({ name }) =>
    line.startsWith(`${name} `),
  );
  const url = URL.parse(environment.VALKEY_URL ?? "");
  if (command === undefined || command.access === "local" || url === null) return environment;
  const cluster = environment.VALKEY_CLUSTER_MODE === "true";
  return { ...environment, VALKEY_URL: await asOperator(command.access, { url, cluster }) };
}

/** The variables that name a test deployment. */
export function environmentFor({ address: { url, cluster } }: Deployment): Environment {
  return { VALKEY_URL: url.href, VALKEY_CLUSTER_MODE: String(cluster) };
}

const schema: unknown = JSON.parse(readFileSync(new URL("../../schema/cli.json", import.meta.url), "utf8"));

/** Parses what a command printed with `--json`, after a check against its schema in schema/cli.json. */
// biome-ignore lint/suspicious/noExplicitAny: the schema is the type, and tests compare the value.
export function parseOutput(command: string, stdout: string): any {
  const ajv = new Ajv2020({ strict: false, allErrors: true });
  ajv.addSchema(schema as object, "cli");
  const validate = ajv.getSchema(`cli#/$defs/${encodeURIComponent(command)}`);
  if (validate === undefined) throw new Error(`schema/cli.json has no schema of ${command}`);
  const value: unknown = JSON.parse(stdout);
  expect(validate(value), JSON.stringify(validate.errors)).toBe(true);
  return value;
}
