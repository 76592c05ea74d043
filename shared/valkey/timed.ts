import type { Pipelines, ValkeyArgument, ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";

interface Commands extends Pipelines {
  call(name: string, ...args: ValkeyArgument[]): Promise<unknown>;
}

/** A client for one invocation, which keeps how long its slowest round trip took, a failed one included. */
export class TimedValkey implements Commands {
  readonly #valkey: Commands;
  /** In milliseconds, to the hundredth: it is written to the log. Undefined: there was none yet. */
  slowestMs: number | undefined;

  constructor(valkey: Commands) {
    this.#valkey = valkey;
  }

  pipelined(commands: readonly ValkeyCommand[]): Promise<ValkeyResult[]> {
    return commands.length === 0 ? Promise.resolve([]) : this.#time(() => this.#valkey.pipelined(commands));
  }

  call(name: string, ...args: ValkeyArgument[]): Promise<unknown> {
    return this.#time(() => this.#valkey.call(name, ...args));
  }

  async #time<T>(send: () => Promise<T>): Promise<T> {
    const begun = performance.now();
    try {
      return await send();
    } finally {
      const ms = Math.round((performance.now() - begun) * 100) / 100;
      this.slowestMs = Math.max(this.slowestMs ?? 0, ms);
    }
  }
}
