import type { ChildProcess, ForkOptions } from "node:child_process";
import type { InvocationMessage } from "#local/function-messages.ts";

export interface FunctionOptions {
  readonly functionName: string;
  /** The path of a built bundle that exports `handler`. */
  readonly bundle: string;
  /** The function's environment variables, in addition to those of Lambda and PATH. */
  readonly environment: Readonly<Record<string, string>>;
  readonly timeoutMs: number;
  readonly memoryLimitMb?: number;
  /** Receives what the function writes to standard output and standard error. */
  readonly onOutput: (text: string) => void;
  /**
   * The runtime: `own` (the default) is local/function-runtime.ts. `aws` is AWS's Lambda runtime interface client, with
   * its native HTTP part if that was built. `aws-without-native` replaces that part with JavaScript.
   */
  readonly runtime?: FunctionRuntime;
}

export type FunctionRuntime = "own" | "aws" | "aws-without-native";

/** A function's process, and the channel to it. */
export interface RunningFunction {
  readonly child: ChildProcess;
  /** Resolves when the function is loaded. Rejects with a FunctionError when it cannot be loaded. */
  readonly ready: Promise<void>;
  /** The function's response. Rejects with a FunctionError when it threw. Stays pending when the process dies. */
  exchange(invocation: InvocationMessage): Promise<unknown>;
  /** Releases other resources after the process has ended. */
  close(): void;
}

const DEFAULT_MEMORY_MB = 256;

/** The function's memory in MB, as text for Lambda's environment variables. */
export function memoryOf(options: FunctionOptions): string {
  return String(options.memoryLimitMb ?? DEFAULT_MEMORY_MB);
}

/** The ARN that a function finds in its context. */
export function arnOf({ functionName }: FunctionOptions): string {
  return `arn:aws:lambda:us-east-1:000000000000:function:${functionName}`;
}

/** Options to fork a function's process on any runtime: only Lambda's variables and the function's own are set. */
export function childOptions(
  options: FunctionOptions,
  variables: Readonly<Record<string, string>>,
): ForkOptions {
  return {
    // A new process group: Ctrl-C in a terminal reaches only the stack, which lets events in flight finish.
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
