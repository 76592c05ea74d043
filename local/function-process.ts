import { randomUUID } from "node:crypto";
import { startOnAwsRuntime } from "#local/aws-runtime.ts";
import { FunctionError } from "#local/function-error.ts";
import type { InvocationMessage } from "#local/function-messages.ts";
import type { FunctionOptions, RunningFunction } from "#local/function-settings.ts";
import { startOnOwnRuntime } from "#local/own-runtime.ts";

/** Lambda's limit for the init phase of a function. */
const LOADING_DEADLINE_MS = 10_000;

/**
 * An execution environment: a process in which a function handles one event at a time. The first event starts the
 * process. A timeout kills it, and the next event replaces a process that has died.
 */
export class FunctionProcess implements AsyncDisposable {
  readonly #options: FunctionOptions;
  #instance: Instance | undefined;
  #turn: Promise<unknown> = Promise.resolve();
  readonly #closing = new AbortController();

  constructor(options: FunctionOptions) {
    this.#options = options;
  }

  /** The id of the process while it runs. */
  get pid(): number | undefined {
    return this.#instance?.isAlive ? this.#instance.pid : undefined;
  }

  /**
   * The function's response. Rejects with a FunctionError. Concurrent calls run one after the other. The function finds the
   * request's id in its context.
   */
  invoke(event: unknown, requestId: string = randomUUID()): Promise<unknown> {
    const result = this.#turn.then(() => this.#invoke(event, requestId));
    this.#turn = result.catch(() => undefined);
    return result;
  }

  /** Kills the process, to simulate a fault. An event in flight fails; the next event starts a new process. */
  async kill(signal: NodeJS.Signals): Promise<void> {
    await this.#instance?.end(signal);
  }

  /** Ends the process and rejects later events. An event in flight fails. */
  async stop(): Promise<void> {
    this.#closing.abort();
    await this.#instance?.end("SIGKILL");
    // An event that was just starting the process ends it again.
    await this.#turn;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  async #invoke(event: unknown, requestId: string): Promise<unknown> {
    this.#refuseWhenStopped();
    if (this.#instance?.isAlive !== true) this.#instance = await Instance.start(this.#options);
    const instance = this.#instance;
    if (this.#closing.signal.aborted) await instance.end("SIGKILL");
    this.#refuseWhenStopped();
    const { functionName, timeoutMs } = this.#options;
    await instance.within(LOADING_DEADLINE_MS, instance.ready, `${functionName} did not load`);
    const deadlineMs = Date.now() + timeoutMs;
    const answer = instance.exchange({ type: "invoke", requestId, event, deadlineMs });
    return instance.within(timeoutMs, answer, `${functionName} did not respond`);
  }

  #refuseWhenStopped(): void {
    if (this.#closing.signal.aborted)
      throw new FunctionError("died", "the execution environment was stopped");
  }
}

/** One process, from its start to its end. */
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
    // The process may die between two events, when nothing awaits this promise.
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

  /** The promise's value. Rejects when the process dies, and after `ms`, which kills the process. */
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
