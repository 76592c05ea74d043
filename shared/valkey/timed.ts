import type { Pipelines, ValkeyArgument, ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";

interface Commands extends Pipelines {
  call(name: string, ...args: ValkeyArgument[]): Promise<unknown>;
}

/** Wraps a client for one attempt, and measures its slowest round trip. Failed round trips count as well. */
export class TimedValkey implements Commands {
  readonly #valkey: Commands;
  /** In milliseconds, rounded to two decimals for the log. Undefined before the first round trip. */
  slowestMs: number | undefined;
  /** Whether any command has succeeded. If none has, work whose first step only reads has written nothing. */
  hasSucceeded = false;

  constructor(valkey: Commands) {
    this.#valkey = valkey;
  }

  async pipelined(commands: readonly ValkeyCommand[]): Promise<ValkeyResult[]> {
    if (commands.length === 0) return [];
    const results = await this.#time(() => this.#valkey.pipelined(commands));
    if (results.some(({ ok }) => ok)) this.hasSucceeded = true;
    return results;
  }

  async call(name: string, ...args: ValkeyArgument[]): Promise<unknown> {
    const reply = await this.#time(() => this.#valkey.call(name, ...args));
    this.hasSucceeded = true;
    return reply;
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
