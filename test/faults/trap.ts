import type { Moment, Point, Step } from "#test/faults/steps.ts";

/** Something that happens once, when the function comes to one of some points of its work. */
export class Trap {
  readonly #points: readonly Point[];
  readonly #action: () => Promise<"pass" | "drop">;
  #reached: Point | undefined;
  #sprung: Point | undefined;
  #outcome: Promise<"pass" | "drop"> = Promise.resolve("pass");

  /** `action` is awaited before the traffic goes on; `drop` cuts the connection instead. */
  constructor(points: readonly Point[], action: () => Promise<"pass" | "drop">) {
    this.#points = points;
    this.#action = action;
  }

  /** The point at which it happened; undefined: the function came to none of them. */
  get sprung(): Point | undefined {
    return this.#sprung;
  }

  /** Waits for what it does: a delivery may fail of it before it is done. */
  async settled(): Promise<void> {
    await this.#outcome;
  }

  guards(step: Step, moment: Moment): boolean {
    if (this.#reached !== undefined) return false;
    this.#reached = this.#points.find((point) => point.step === step && point.moment === moment);
    return this.#reached !== undefined;
  }

  spring(): Promise<"pass" | "drop"> {
    this.#sprung = this.#reached;
    this.#outcome = this.#action();
    return this.#outcome;
  }
}
