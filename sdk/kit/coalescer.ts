/**
 * Runs calls for many items at once: items that arrive while a call is in flight wait, and share the next one. So the cost of
 * a call is shared under load, and a single item does not wait for others.
 *
 * @example
 * const finisher = new Coalescer<FinishedTask, FinishResult>((runs) => finishTasks(ports, runs));
 * await finisher.run(task);
 */
export class Coalescer<Item, Result> {
  readonly #call: (items: readonly Item[]) => Promise<readonly Result[]>;
  #waiting: { readonly item: Item; readonly result: PromiseWithResolvers<Result> }[] = [];
  #isRunning = false;

  /** `call` returns one result per item, in order. */
  constructor(call: (items: readonly Item[]) => Promise<readonly Result[]>) {
    this.#call = call;
  }

  /** Rejects with the error of the call that the item was part of. */
  run(item: Item): Promise<Result> {
    const result = Promise.withResolvers<Result>();
    this.#waiting.push({ item, result });
    if (!this.#isRunning) {
      this.#isRunning = true;
      // Items of the same tick share a call.
      queueMicrotask(() => void this.#drain());
    }
    return result.promise;
  }

  async #drain(): Promise<void> {
    while (this.#waiting.length > 0) {
      const batch = this.#waiting;
      this.#waiting = [];
      try {
        const results = await this.#call(batch.map(({ item }) => item));
        for (const [at, { result }] of batch.entries()) {
          const value = results[at];
          if (value === undefined) result.reject(new RangeError("the call returned too few results"));
          else result.resolve(value);
        }
      } catch (error) {
        for (const { result } of batch) result.reject(error);
      }
    }
    this.#isRunning = false;
  }
}
