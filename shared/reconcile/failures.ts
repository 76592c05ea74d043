import type { Unit } from "#shared/reconcile/place.ts";
import type { Run } from "#shared/reconcile/run.ts";

/** The indexes of one batch of which not everything could be dealt with. Each is told of once. */
export class Failures {
  readonly #run: Run;
  readonly #units = new Set<Unit>();

  constructor(run: Run) {
    this.#run = run;
  }

  add(unit: Unit, error: unknown): void {
    if (!this.#units.has(unit)) this.#run.failed(unit, error);
    this.#units.add(unit);
  }

  has(unit: Unit): boolean {
    return this.#units.has(unit);
  }
}
