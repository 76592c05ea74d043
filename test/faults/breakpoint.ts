import type { InjectionPoint, Step, Timing } from "#test/faults/steps.ts";

/** Runs an action once, when the function reaches one of some injection points. */
export class Breakpoint {
  readonly #points: readonly InjectionPoint[];
  readonly #action: () => Promise<"pass" | "drop">;
  #reached: InjectionPoint | undefined;
  #hitAt: InjectionPoint | undefined;
  #outcome: Promise<"pass" | "drop"> = Promise.resolve("pass");

  /** The traffic waits for `action`. `pass` lets it continue; `drop` closes the connection. */
  constructor(points: readonly InjectionPoint[], action: () => Promise<"pass" | "drop">) {
    this.#points = points;
    this.#action = action;
  }

  /** The point at which the action ran; undefined if the function reached none of the points. */
  get hitAt(): InjectionPoint | undefined {
    return this.#hitAt;
  }

  /** Waits for the end of the action. The delivery may fail before that. */
  async settled(): Promise<void> {
    await this.#outcome;
  }

  stopsAt(step: Step, timing: Timing): boolean {
    if (this.#reached !== undefined) return false;
    this.#reached = this.#points.find((point) => point.step === step && point.timing === timing);
    return this.#reached !== undefined;
  }

  hit(): Promise<"pass" | "drop"> {
    this.#hitAt = this.#reached;
    this.#outcome = this.#action();
    return this.#outcome;
  }
}
