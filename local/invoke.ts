/**
 * `npm run invoke -- dispatch event.json`: invokes one built function with one event.
 *
 * Exit status: 0 when the function responded, 1 when it did not, 2 when the arguments or the event are invalid, 130
 * after SIGINT and 143 after SIGTERM.
 */

import { existsSync, readdirSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { findAwsRuntimeClient } from "#local/aws-runtime.ts";
import { FunctionError } from "#local/function-error.ts";
import { FunctionProcess } from "#local/function-process.ts";
import type { FunctionRuntime } from "#local/function-settings.ts";
import { type InvokeOptions, parseInvocation } from "#local/invoke-options.ts";
import { ConfigurationError, messageOf } from "#shared/errors.ts";
import { listenForStop } from "#shared/runtime/stop-signals.ts";

const BUILT = fileURLToPath(new URL("../dist", import.meta.url));
const say = (line: string) => process.stderr.write(`sluice: ${line}\n`);

async function main(): Promise<number> {
  const parsed = parseInvocation(
    process.argv.slice(2),
    (help) => process.stdout.write(help),
    (error) => process.stderr.write(error),
  );
  if (parsed.kind === "done") return parsed.exitCode;
  const stop = listenForStop();
  try {
    const answer = await invoke(parsed.options, stop.signal);
    process.stdout.write(`${JSON.stringify(answer)}\n`);
    return 0;
  } catch (error) {
    if (stop.signal.aborted) return stop.exitCode;
    say(messageOf(error));
    return error instanceof ConfigurationError ? 2 : 1;
  }
}

async function invoke(options: InvokeOptions, signal: AbortSignal): Promise<unknown> {
  const bundle = bundleOf(options.functionName);
  const event = await readEvent(options.eventFile);
  signal.throwIfAborted();
  const runtime = runtimeOf(options.runtime);
  await using environment = new FunctionProcess({
    functionName: `sluice-${options.functionName}`,
    bundle,
    environment: variables(process.env),
    timeoutMs: options.timeoutSeconds * 1_000,
    onOutput: (written) => process.stderr.write(written),
    runtime,
  });
  signal.addEventListener("abort", () => void environment.stop());
  const startedAt = performance.now();
  try {
    const answer = await environment.invoke(event);
    const seconds = (performance.now() - startedAt) / 1_000;
    say(`response after ${seconds.toFixed(2)} s, on ${describe(runtime)}`);
    return answer;
  } catch (error) {
    if (!(error instanceof FunctionError)) throw error;
    throw new Error(`the function ${REASONS[error.reason]}: ${error.message}`, { cause: error });
  }
}

const REASONS: Readonly<Record<FunctionError["reason"], string>> = {
  threw: "threw",
  timed_out: "timed out",
  unusable: "could not be loaded",
  died: "died",
};

function bundleOf(name: string): string {
  const bundle = join(BUILT, name, "index.mjs");
  if (/^[a-z]+(?:-[a-z]+)*$/.test(name) && existsSync(bundle)) return bundle;
  const built = existsSync(BUILT) ? readdirSync(BUILT).join(", ") : "";
  throw new ConfigurationError([
    built === ""
      ? "nothing is built: run npm run build"
      : `there is no function "${name}": expected ${built}`,
  ]);
}

async function readEvent(file: string): Promise<unknown> {
  try {
    return JSON.parse(file === "-" ? await text(process.stdin) : await readFile(file, "utf8"));
  } catch (error) {
    throw new ConfigurationError([
      `cannot read the event from ${file === "-" ? "standard input" : file}: ${messageOf(error)}`,
    ]);
  }
}

function runtimeOf(choice: InvokeOptions["runtime"]): FunctionRuntime {
  if (choice !== "auto") return choice;
  return findAwsRuntimeClient() === undefined ? "own" : "aws";
}

function describe(runtime: FunctionRuntime): string {
  if (runtime === "own") return "the built-in runtime";
  return `AWS's runtime client${findAwsRuntimeClient()?.isNative ? "" : ", without its native HTTP client"}`;
}

/** The variables of the shell, without those that npm sets for its scripts. */
function variables(env: NodeJS.ProcessEnv): Record<string, string> {
  return Object.fromEntries(
    Object.entries(env).flatMap(([name, value]) =>
      value === undefined || /^npm_|^NODE_OPTIONS$|^INIT_CWD$/i.test(name) ? [] : [[name, value]],
    ),
  );
}

process.exitCode = await main();
