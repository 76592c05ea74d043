import type { Pipelines, ValkeyArgument, ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";
import type { Valkey } from "#shared/valkey/client.ts";

/**
 * Counts round trips: commands are held until nobody sends more, and then they all go at once. Whatever waits
 * for a reply before it sends therefore costs a round, however the pipelines are cut.
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

  /** The replies of a round come together too, so that it costs one even where some are quicker than others. */
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
