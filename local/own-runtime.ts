import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { FunctionError } from "#local/function-error.ts";
import { type FunctionMessage, isFunctionMessage } from "#local/function-messages.ts";
import type { FunctionOptions, RunningFunction } from "#local/function-settings.ts";
import { childOptions, memoryOf } from "#local/function-settings.ts";

const RUNTIME = fileURLToPath(new URL("function-runtime.ts", import.meta.url));

/** Starts a function on our own small runtime. Events and answers travel through the process' IPC channel. */
export async function startOnOwnRuntime(options: FunctionOptions): Promise<RunningFunction> {
  const child = fork(RUNTIME, [options.bundle, options.functionName, memoryOf(options)], {
    ...childOptions(options, { LAMBDA_TASK_ROOT: process.cwd() }),
    execArgv: ["--enable-source-maps"],
  });
  const pending = new Map<string, (message: FunctionMessage) => void>();
  const ready = new Promise<void>((resolve, reject) => {
    child.on("message", (message: unknown) => {
      if (!isFunctionMessage(message)) return;
      if (message.type === "ready") resolve();
      else if (message.type === "unusable") reject(FunctionError.from("unusable", message.error));
      else pending.get(message.requestId)?.(message);
    });
  });
  return {
    child,
    ready,
    exchange(invocation) {
      const { promise, resolve, reject } = Promise.withResolvers<unknown>();
      pending.set(invocation.requestId, (message) => {
        pending.delete(invocation.requestId);
        if (message.type === "answer") resolve(JSON.parse(message.json));
        else if (message.type === "error") reject(FunctionError.from("threw", message.error));
      });
      // A process that dies before it reads this fails the invocation by its death.
      child.send(invocation, () => undefined);
      return promise;
    },
    close: () => undefined,
  };
}
