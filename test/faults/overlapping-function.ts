/** A function process that accepts an event while it still handles another one. */

import { type ChildProcess, fork } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { isFunctionMessage } from "#local/function-messages.ts";
import { bundleOf } from "#test/faults/bundles.ts";

const RUNTIME = fileURLToPath(new URL("../../local/function-runtime.ts", import.meta.url));
const TIMEOUT_MS = 20_000;

export class OverlappingFunction implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #ready = Promise.withResolvers<void>();
  readonly #pending = new Map<string, PromiseWithResolvers<unknown>>();

  constructor(environment: Readonly<Record<string, string>>) {
    this.#child = fork(RUNTIME, [bundleOf("dispatch"), "sluice-dispatch", "256"], {
      stdio: ["ignore", "ignore", "ignore", "ipc"],
      env: { PATH: process.env.PATH, AWS_LAMBDA_FUNCTION_NAME: "sluice-dispatch", ...environment },
    });
    this.#child.on("message", (message: unknown) => {
      if (!isFunctionMessage(message)) return;
      if (message.type === "ready") this.#ready.resolve();
      else if (message.type === "unusable") this.#fail(new Error(message.error.message));
      else {
        const pending = this.#pending.get(message.requestId);
        if (message.type === "answer") pending?.resolve(JSON.parse(message.json));
        else pending?.reject(new Error(message.error.message));
      }
    });
    this.#child.once("exit", () => this.#fail(new Error("the process died")));
    // `invoke` reports the failure; without an invocation it must not be an unhandled rejection.
    this.#ready.promise.catch(() => undefined);
  }

  /** Invokes the function, without waiting for invocations in flight. Returns its answer. */
  async invoke(event: unknown): Promise<unknown> {
    await this.#ready.promise;
    const requestId = randomUUID();
    const pending = Promise.withResolvers<unknown>();
    this.#pending.set(requestId, pending);
    this.#child.send({ type: "invoke", requestId, event, deadlineMs: Date.now() + TIMEOUT_MS });
    return pending.promise;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    this.#child.kill("SIGKILL");
    await once(this.#child, "exit");
  }

  #fail(error: Error): void {
    this.#ready.reject(error);
    for (const pending of this.#pending.values()) pending.reject(error);
  }
}
