import { fork } from "node:child_process";
import { extname } from "node:path";
import { fileURLToPath } from "node:url";
import { FunctionError } from "#local/function-error.ts";
import { type FunctionMessage, isFunctionMessage } from "#local/function-messages.ts";
import type { FunctionOptions, RunningFunction } from "#local/function-settings.ts";
import { childOptions, memoryOf } from "#local/function-settings.ts";

/** Beside this module, with its extension: `.ts` in the sources, `.js` in the npm package. */
const RUNTIME = fileURLToPath(new URL(`function-runtime${extname(import.meta.url)}`, import.meta.url));

/** Starts a function on the built-in runtime. Events and responses go through the IPC channel of its process. */
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
      // If the process dies before it reads the event, its exit fails the invocation.
      child.send(invocation, () => undefined);
      return promise;
    },
    close: () => undefined,
  };
}
