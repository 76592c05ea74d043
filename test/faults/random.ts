import { createHash } from "node:crypto";

const UINT32 = 4;

/** A pseudo-random generator: the same seed and draw give the same case on every machine. */
export class Random {
  readonly #stream: string;
  #drawn = 0;

  /** `draw` counts the attempts to draw a case from one seed, from 0. */
  constructor(seed: number, draw = 0) {
    this.#stream = draw === 0 ? String(seed) : `${seed}/${draw}`;
  }

  /** An integer from 0 to `limit` − 1. */
  below(limit: number): number {
    return this.#bytes().readUInt32LE(0) % Math.max(1, limit);
  }

  /** An integer from `min` to `max`, both included. */
  between(min: number, max: number): number {
    return min + this.below(max - min + 1);
  }

  /** True with a probability in percent. */
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }

  /** One of the items. Throws a RangeError if there is none. */
  pick<T>(items: readonly T[]): T {
    const item = items[this.below(items.length)];
    if (item === undefined) throw new RangeError("nothing to pick from");
    return item;
  }

  /** The items in another order. */
  shuffled<T>(items: readonly T[]): T[] {
    const rest = [...items];
    const order: T[] = [];
    while (rest.length > 0) order.push(...rest.splice(this.below(rest.length), 1));
    return order;
  }

  uuid(): string {
    const hex = this.#bytes().toString("hex", UINT32, UINT32 + 16);
    return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
  }

  #bytes(): Buffer {
    this.#drawn += 1;
    return createHash("sha256").update(`${this.#stream}:${this.#drawn}`).digest();
  }
}
