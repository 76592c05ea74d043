import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import type { TestBed } from "#test/faults/test-bed.ts";

const PROGRAM = fileURLToPath(new URL("worker-process.ts", import.meta.url));
const SKEWED_CLOCK = new URL("skewed-clock.ts", import.meta.url).href;

/** What a worker process does in one pass. */
export interface Pass {
  readonly partitions: readonly number[];
  readonly lane: string;
  readonly limit: number;
  readonly leaseTtlMs: number;
  /** Each run takes a random time up to this. */
  readonly taskMs: number;
  /** The share of completions that are lost. */
  readonly lostPercent: number;
  /** The process kills itself in its first handler. */
  readonly dies: boolean;
}

export interface PassResult {
  readonly statuses: readonly string[];
  /** Completions that were lost. */
  readonly dropped: number;
  readonly error?: string;
}

/** The environment of a process whose clock is off. */
export function clockOff(offsetMs: number): Record<string, string> {
  return { NODE_OPTIONS: `--import ${SKEWED_CLOCK}`, CLOCK_OFFSET_MS: String(offsetMs) };
}

/** A worker process. */
export class WorkerChild implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #exited: Promise<unknown>;

  private constructor(child: ChildProcess) {
    this.#child = child;
    this.#exited = once(child, "exit");
  }

  static async start(
    bed: TestBed,
    name: string,
    environment: Readonly<Record<string, string>> = {},
  ): Promise<WorkerChild> {
    const child = fork(PROGRAM, [], {
      stdio: ["ignore", "pipe", "pipe", "ipc"],
      env: { PATH: process.env.PATH, ...bed.environmentOf({ WORKER_NAME: name, ...environment }) },
    });
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding("utf8").on("data", (text: string) => bed.note(`${name}: ${text}`));
    }
    const worker = new WorkerChild(child);
    const isReady = await Promise.race([once(child, "message"), worker.#exited.then(() => undefined)]);
    if (isReady === undefined) throw new Error(`the process of ${name} did not start`);
    return worker;
  }

  /** Undefined if the process died in it. */
  async pass(pass: Pass): Promise<PassResult | undefined> {
    const answer = once(this.#child, "message");
    this.#child.send(pass, () => undefined);
    const [result] = (await Promise.race([answer, this.#exited.then(() => [])])) as [PassResult?];
    return result;
  }

  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#exited;
  }

  get hasExited(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.hasExited) await this.kill();
  }
}
