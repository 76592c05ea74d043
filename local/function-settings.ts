import type { ChildProcess, ForkOptions } from "node:child_process";
import type { InvocationMessage } from "#local/function-messages.ts";

export interface FunctionOptions {
  readonly functionName: string;
  /** A built bundle that exports `handler`. */
  readonly bundle: string;
  /** What the function finds in process.env, besides Lambda's own variables and PATH. */
  readonly environment: Readonly<Record<string, string>>;
  readonly timeoutMs: number;
  readonly memoryLimitMb?: number;
  /** Gets all that the function writes to its standard output and error. */
  readonly onOutput: (text: string) => void;
  /**
   * What hands the function its events: our own few lines (`own`, when left out), or AWS's runtime client for Node
   * (`aws`), whose native HTTP client is used where it is built; `aws-without-native` has ours in its place.
   */
  readonly runtime?: FunctionRuntime;
}

export type FunctionRuntime = "own" | "aws" | "aws-without-native";

/** A function's process, and how to speak to it. */
export interface RunningFunction {
  readonly child: ChildProcess;
  /** Settles when the function is loaded; rejects with a FunctionError when it cannot be. */
  readonly ready: Promise<void>;
  /** The answer. Rejects with a FunctionError when the function threw; never settles when the process dies. */
  exchange(invocation: InvocationMessage): Promise<unknown>;
  /** Frees what there is beside the process, which has ended. */
  close(): void;
}

const DEFAULT_MEMORY_MB = 256;

/** The function's memory in MB, as Lambda's variables say it. */
export function memoryOf(options: FunctionOptions): string {
  return String(options.memoryLimitMb ?? DEFAULT_MEMORY_MB);
}

export function arnOf({ functionName }: FunctionOptions): string {
  return `arn:aws:lambda:us-east-1:000000000000:function:${functionName}`;
}

/** How a function's process is started on any runtime: a clean environment with Lambda's own variables. */
export function childOptions(
  options: FunctionOptions,
  variables: Readonly<Record<string, string>>,
): ForkOptions {
  return {
    // In a group of its own: Ctrl-C in a terminal is for the stack, which lets an event under way come to its end.
    detached: true,
    stdio: ["ignore", "pipe", "pipe", "ipc"],
    env: {
      PATH: process.env.PATH,
      TZ: ":UTC",
      AWS_EXECUTION_ENV: "AWS_Lambda_nodejs24.x",
      AWS_LAMBDA_FUNCTION_NAME: options.functionName,
      AWS_LAMBDA_FUNCTION_MEMORY_SIZE: memoryOf(options),
      AWS_LAMBDA_FUNCTION_VERSION: "$LATEST",
      AWS_LAMBDA_INITIALIZATION_TYPE: "on-demand",
      ...variables,
      ...options.environment,
    },
  };
}
