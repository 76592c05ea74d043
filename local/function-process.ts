import { type ChildProcess, fork } from "node:child_process";
import { randomUUID } from "node:crypto";
import { fileURLToPath } from "node:url";
import {
  type FunctionMessage,
  type InvocationMessage,
  isFunctionMessage,
  type RemoteError,
} from "#local/function-messages.ts";

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
}

/** An invocation that gave no answer: the function threw, ran too long, could not be loaded, or died. */
export class FunctionError extends Error {
  override readonly name = "FunctionError";
  readonly reason: "threw" | "timed_out" | "unusable" | "died";

  constructor(reason: FunctionError["reason"], message: string, options?: ErrorOptions) {
    super(message, options);
    this.reason = reason;
  }
}

const RUNTIME = fileURLToPath(new URL("function-runtime.ts", import.meta.url));
const DEFAULT_MEMORY_MB = 256;
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
    return this.#instance?.isAlive ? this.#instance.child.pid : undefined;
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
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  async #invoke(event: unknown): Promise<unknown> {
    if (this.#closing.signal.aborted)
      throw new FunctionError("died", "the execution environment was stopped");
    if (this.#instance?.isAlive !== true) this.#instance = new Instance(this.#options);
    const instance = this.#instance;
    const { functionName, timeoutMs } = this.#options;
    await instance.within(LOADING_DEADLINE_MS, instance.ready, `${functionName} did not load`);
    const requestId = randomUUID();
    const deadlineMs = Date.now() + timeoutMs;
    const answer = instance.exchange({ type: "invoke", requestId, event, deadlineMs });
    return instance.within(timeoutMs, answer, `${functionName} gave no answer`);
  }
}

/** One life of the process. */
class Instance {
  readonly child: ChildProcess;
  readonly ready: Promise<void>;
  readonly #died: Promise<never>;
  readonly #closed: Promise<void>;
  readonly #pending = new Map<string, (message: FunctionMessage) => void>();

  constructor(options: FunctionOptions) {
    this.child = launch(options);
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream?.setEncoding("utf8").on("data", options.onOutput);
    }
    this.#died = new Promise((_, reject) => {
      this.child.once("error", (error) => {
        reject(new FunctionError("died", `the process did not start: ${error.message}`, { cause: error }));
      });
      this.child.once("exit", (code, signal) => {
        reject(new FunctionError("died", `the process died with ${signal ?? `the status ${code}`}`));
      });
    });
    // It may die between two events, when nobody waits.
    this.#died.catch(() => undefined);
    // `close` and not `exit`: the last output has arrived by then.
    this.#closed = new Promise((resolve) => {
      this.child.once("close", () => resolve());
      this.child.once("error", () => resolve());
    });
    this.ready = new Promise((resolve, reject) => {
      this.child.on("message", (message: unknown) => {
        if (!isFunctionMessage(message)) return;
        if (message.type === "ready") resolve();
        else if (message.type === "unusable") reject(errorFrom("unusable", message.error));
        else this.#pending.get(message.requestId)?.(message);
      });
    });
    this.ready.catch(() => this.end("SIGKILL"));
  }

  get isAlive(): boolean {
    const { pid, exitCode, signalCode } = this.child;
    return pid !== undefined && exitCode === null && signalCode === null;
  }

  exchange(invocation: InvocationMessage): Promise<unknown> {
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#pending.set(invocation.requestId, (message) => {
      this.#pending.delete(invocation.requestId);
      if (message.type === "answer") resolve(JSON.parse(message.json));
      else if (message.type === "error") reject(errorFrom("threw", message.error));
    });
    // A process that dies before it reads this fails the invocation by its death.
    this.child.send(invocation, () => undefined);
    return promise;
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
    if (this.isAlive) this.child.kill(signal);
    await this.#closed;
  }
}

function launch(options: FunctionOptions): ChildProcess {
  const memory = String(options.memoryLimitMb ?? DEFAULT_MEMORY_MB);
  return fork(RUNTIME, [options.bundle, options.functionName, memory], {
    execArgv: ["--enable-source-maps"],
    // In a group of its own: Ctrl-C in a terminal is for the stack, which lets an event under way come to its end.
    detached: true,
    stdio: ["ignore", "pipe", "pipe", "ipc"],
    env: {
      PATH: process.env.PATH,
      TZ: ":UTC",
      LAMBDA_TASK_ROOT: process.cwd(),
      AWS_EXECUTION_ENV: "AWS_Lambda_nodejs24.x",
      AWS_LAMBDA_FUNCTION_NAME: options.functionName,
      AWS_LAMBDA_FUNCTION_MEMORY_SIZE: memory,
      AWS_LAMBDA_FUNCTION_VERSION: "$LATEST",
      AWS_LAMBDA_INITIALIZATION_TYPE: "on-demand",
      ...options.environment,
    },
  });
}

function errorFrom(reason: "threw" | "unusable", error: RemoteError): FunctionError {
  const failure = new FunctionError(reason, `${error.name}: ${error.message}`);
  if (error.stack !== "") failure.stack = error.stack;
  return failure;
}
