import type { Pipelines, ValkeyArgument, ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";

interface Commands extends Pipelines {
  call(name: string, ...args: ValkeyArgument[]): Promise<unknown>;
}

/** Wraps a client for one invocation, and measures its slowest round trip. Failed round trips count as well. */
export class TimedValkey implements Commands {
  readonly #valkey: Commands;
  /** In milliseconds, rounded to two decimals for the log. Undefined before the first round trip. */
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
    const startedAt = performance.now();
    try {
      return await send();
    } finally {
      const ms = Math.round((performance.now() - startedAt) * 100) / 100;
      this.slowestMs = Math.max(this.slowestMs ?? 0, ms);
    }
  }
}
