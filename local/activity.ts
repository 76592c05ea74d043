/** Lets a waiter notice at once that something has happened, so that it need not look again and again. */
export class Activity {
  #next = Promise.withResolvers<void>();

  /** Resolves with the next call of `notify`. */
  get next(): Promise<void> {
    return this.#next.promise;
  }

  notify(): void {
    const { resolve } = this.#next;
    this.#next = Promise.withResolvers<void>();
    resolve();
  }
}
