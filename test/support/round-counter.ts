import type { Pipelines, ValkeyArgument, ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";
import type { Valkey } from "#shared/valkey/client.ts";

/**
 * Counts round trips. Commands are held until the code under test sends no more, and are then sent together. So
 * code that waits for a reply before it sends costs one more round, however it splits its pipelines.
 */
export class RoundCounter implements Pipelines {
  rounds = 0;
  readonly #valkey: Pick<Valkey, "pipelined" | "call">;
  #held: (() => Promise<void>)[] = [];

  constructor(valkey: Pick<Valkey, "pipelined" | "call">) {
    this.#valkey = valkey;
  }

  pipelined(commands: readonly ValkeyCommand[]): Promise<ValkeyResult[]> {
    return commands.length === 0 ? Promise.resolve([]) : this.#hold(() => this.#valkey.pipelined(commands));
  }

  call(name: string, ...args: ValkeyArgument[]): Promise<unknown> {
    return this.#hold(() => this.#valkey.call(name, ...args));
  }

  /** Delivers the replies of a round together, so that a round counts once even if some replies are faster. */
  #hold<T>(send: () => Promise<T>): Promise<T> {
    if (this.#held.length === 0) setImmediate(() => void this.#release());
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    this.#held.push(async () => {
      const [result] = await Promise.allSettled([send()]);
      this.#settle(() => {
        if (result.status === "fulfilled") resolve(result.value);
        else reject(result.reason);
      });
    });
    return promise;
  }

  #settled: (() => void)[] = [];

  #settle(settle: () => void): void {
    this.#settled.push(settle);
  }

  async #release(): Promise<void> {
    const held = this.#held;
    this.#held = [];
    this.rounds += 1;
    await Promise.all(held.map((send) => send()));
    const settled = this.#settled;
    this.#settled = [];
    for (const settle of settled) settle();
  }
}
