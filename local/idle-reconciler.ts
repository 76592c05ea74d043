import type { FlowStatus } from "#local/flow-status.ts";
import { messageOf } from "#shared/errors.ts";

/** A place where the reconcile function runs. */
export interface ReconcileFunction {
  /** The function's answer; rejects when it threw, timed out or died. */
  invoke(event: unknown): Promise<unknown>;
}

/** For how long, in seconds, an upstream must have ended before its completion counts as lost. */
export const GRACE_SECONDS = 1;
/** Sweeps after which the executions stand where they stood before: the next one would change nothing either. */
const MOST_IN_VAIN = 3;
/** Slices of one sweep. */
const MOST_SLICES = 100;

/**
 * Stands in for the schedule of the reconcile function. It is asked when nothing moves any more, and not by the clock:
 * a completion that waits in a queue with a thousand others is not lost, and here the grace is short.
 */
export class IdleReconciler {
  readonly #function: ReconcileFunction;
  readonly #onError: (fault: string) => void;
  #seen = "";
  #inVain = 0;

  constructor(reconcile: ReconcileFunction, onError: (fault: string) => void) {
    this.#function = reconcile;
    this.#onError = onError;
  }

  /** Has everything swept once. False: there is nothing to be found, so nothing will move again. */
  async run(status: FlowStatus): Promise<boolean> {
    const state = JSON.stringify(status);
    this.#inVain = state === this.#seen ? this.#inVain + 1 : 0;
    this.#seen = state;
    if (this.#inVain >= MOST_IN_VAIN) return false;
    try {
      return (await this.#sweep()) > 0;
    } catch (error) {
      this.#onError(`the reconciler failed: ${messageOf(error)}`);
      return true;
    }
  }

  /** How much was found. */
  async #sweep(): Promise<number> {
    let found = 0;
    for (let slice = 1; slice <= MOST_SLICES; slice += 1) {
      const answer: unknown = await this.#function.invoke({});
      const { state, repaired, promoted } = isRecord(answer) ? answer : {};
      found += Number(repaired) + Number(promoted);
      if (state === "complete") return found;
      if (state !== "out_of_time") break;
    }
    throw new Error("its sweep did not come to an end");
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
