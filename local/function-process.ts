import { randomUUID } from "node:crypto";
import { startOnAwsRuntime } from "#local/aws-runtime.ts";
import { FunctionError } from "#local/function-error.ts";
import type { InvocationMessage } from "#local/function-messages.ts";
import type { FunctionOptions, RunningFunction } from "#local/function-settings.ts";
import { startOnOwnRuntime } from "#local/own-runtime.ts";

/** Lambda's own limit for what a function does before its first event. */
const LOADING_DEADLINE_MS = 10_000;

/**
 * An execution environment: a process of its own in which a function handles one event at a time. It starts with the
 * first event, is killed when the function runs too long, and is replaced at the next event when it has died.
 */
export class FunctionProcess implements AsyncDisposable {
  readonly #options: FunctionOptions;
  #instance: Instance | undefined;
  #turn: Promise<unknown> = Promise.resolve();
  readonly #closing = new AbortController();

  constructor(options: FunctionOptions) {
    this.#options = options;
  }

  /** The process' id, while it lives. */
  get pid(): number | undefined {
    return this.#instance?.isAlive ? this.#instance.pid : undefined;
  }

  /** The function's answer. Rejects with a FunctionError. A second event waits for the first one's end. */
  invoke(event: unknown): Promise<unknown> {
    const result = this.#turn.then(() => this.#invoke(event));
    this.#turn = result.catch(() => undefined);
    return result;
  }

  /** Ends the process with a signal, as a fault would: an event under way fails, the next starts anew. */
  async kill(signal: NodeJS.Signals): Promise<void> {
    await this.#instance?.end(signal);
  }

  /** Ends the process for good, also amid an event. */
  async stop(): Promise<void> {
    this.#closing.abort();
    await this.#instance?.end("SIGKILL");
    // An event that was about to start the process ends it again.
    await this.#turn;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  async #invoke(event: unknown): Promise<unknown> {
    this.#refuseWhenStopped();
    if (this.#instance?.isAlive !== true) this.#instance = await Instance.start(this.#options);
    const instance = this.#instance;
    if (this.#closing.signal.aborted) await instance.end("SIGKILL");
    this.#refuseWhenStopped();
    const { functionName, timeoutMs } = this.#options;
    await instance.within(LOADING_DEADLINE_MS, instance.ready, `${functionName} did not load`);
    const requestId = randomUUID();
    const deadlineMs = Date.now() + timeoutMs;
    const answer = instance.exchange({ type: "invoke", requestId, event, deadlineMs });
    return instance.within(timeoutMs, answer, `${functionName} gave no answer`);
  }

  #refuseWhenStopped(): void {
    if (this.#closing.signal.aborted)
      throw new FunctionError("died", "the execution environment was stopped");
  }
}

/** One life of the process. */
class Instance {
  readonly #function: RunningFunction;
  readonly #died: Promise<never>;
  readonly #closed: Promise<void>;

  static async start(options: FunctionOptions): Promise<Instance> {
    const { runtime = "own" } = options;
    return new Instance(
      await (runtime === "own"
        ? startOnOwnRuntime(options)
        : startOnAwsRuntime(options, { native: runtime === "aws" })),
      options.onOutput,
    );
  }

  private constructor(running: RunningFunction, onOutput: (text: string) => void) {
    this.#function = running;
    const { child } = running;
    for (const stream of [child.stdout, child.stderr]) stream?.setEncoding("utf8").on("data", onOutput);
    this.#died = new Promise((_, reject) => {
      child.once("error", (error) => {
        reject(new FunctionError("died", `the process did not start: ${error.message}`, { cause: error }));
      });
      child.once("exit", (code, signal) => {
        reject(new FunctionError("died", `the process died with ${signal ?? `the status ${code}`}`));
      });
    });
    // It may die between two events, when nobody waits.
    this.#died.catch(() => undefined);
    // `close` and not `exit`: the last output has arrived by then.
    this.#closed = new Promise((resolve) => {
      child.once("close", () => resolve());
      child.once("error", () => resolve());
    });
    void this.#closed.then(() => running.close());
    running.ready.catch(() => this.end("SIGKILL"));
  }

  get pid(): number | undefined {
    return this.#function.child.pid;
  }

  get ready(): Promise<void> {
    return this.#function.ready;
  }

  get isAlive(): boolean {
    const { pid, exitCode, signalCode } = this.#function.child;
    return pid !== undefined && exitCode === null && signalCode === null;
  }

  exchange(invocation: InvocationMessage): Promise<unknown> {
    return this.#function.exchange(invocation);
  }

  /** The promise's value, unless the time is up, which kills the process, or the process dies. */
  async within<T>(ms: number, promise: Promise<T>, what: string): Promise<T> {
    const { promise: late, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(() => {
      reject(new FunctionError("timed_out", `${what} within ${ms} ms`));
    }, ms);
    try {
      return await Promise.race([promise, late, this.#died]);
    } catch (error) {
      if (error instanceof FunctionError && error.reason !== "threw") await this.end("SIGKILL");
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  async end(signal: NodeJS.Signals): Promise<void> {
    if (this.isAlive) this.#function.child.kill(signal);
    await this.#closed;
  }
}
