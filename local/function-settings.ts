import type { ForkOptions } from "node:child_process";
import type { FunctionOptions } from "#local/function-process.ts";

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
