import { fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import type { FunctionOptions } from "#local/function-settings.ts";

const RUNTIME = fileURLToPath(new URL("../local/function-runtime.ts", import.meta.url));

export interface StartTimes {
  /** From the start of the process until the handler is loaded. */
  readonly readyMs: number;
  /** From the start of the process to the first response. */
  readonly answerMs: number;
}

/** Starts a function in a new process, invokes it once, and ends the process. */
export async function timeStart(options: FunctionOptions, event: unknown): Promise<StartTimes> {
  const begun = performance.now();
  const child = fork(RUNTIME, [options.bundle, options.functionName, "256"], {
    // The NODE_OPTIONS of the deployed functions.
    execArgv: ["--enable-source-maps"],
    stdio: ["ignore", "ignore", "inherit", "ipc"],
    env: { PATH: process.env.PATH, AWS_LAMBDA_FUNCTION_NAME: options.functionName, ...options.environment },
  });
  const exited = once(child, "exit");
  const next = async (type: "ready" | "answer"): Promise<number> => {
    const [message]: unknown[] = await Promise.race([once(child, "message"), exited]);
    if (typeof message !== "object" || message === null || !("type" in message) || message.type !== type) {
      throw new Error(`the function gave no ${type}: ${JSON.stringify(message)}`);
    }
    return performance.now() - begun;
  };
  try {
    const readyMs = await next("ready");
    child.send({ type: "invoke", requestId: "first", event, deadlineMs: Date.now() + options.timeoutMs });
    return { readyMs, answerMs: await next("answer") };
  } finally {
    child.kill("SIGKILL");
    await exited;
  }
}
