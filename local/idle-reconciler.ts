import type { FlowStatus } from "#local/flow-status.ts";
import { messageOf } from "#shared/errors.ts";

/** An execution environment of the reconcile function. */
export interface ReconcileFunction {
  /** The function's response. Rejects when it threw, timed out or died. */
  invoke(event: unknown): Promise<unknown>;
}

/** RECONCILE_GRACE_SECONDS of the local stack: the age from which an undispatched completion counts as missed. */
export const GRACE_SECONDS = 1;
/** Sweeps without any change of the flow's status before `run` gives up. */
const MAX_FRUITLESS_SWEEPS = 3;
/** Invocations per sweep: one that runs out of time leaves the rest to the next. */
const MAX_INVOCATIONS = 100;

/**
 * Runs the reconcile function when a flow is idle. It replaces the deployed schedule, because the local grace period is
 * so short that a scheduled run would resend completions that still wait in a long queue.
 */
export class IdleReconciler {
  readonly #function: ReconcileFunction;
  readonly #onError: (error: string) => void;
  #lastStatus = "";
  #fruitless = 0;

  constructor(reconcile: ReconcileFunction, onError: (error: string) => void) {
    this.#function = reconcile;
    this.#onError = onError;
  }

  /** Sweeps all partitions once. Returns false when another sweep cannot help, so the flow is stuck. */
  async run(status: FlowStatus): Promise<boolean> {
    const current = JSON.stringify(status);
    this.#fruitless = current === this.#lastStatus ? this.#fruitless + 1 : 0;
    this.#lastStatus = current;
    if (this.#fruitless >= MAX_FRUITLESS_SWEEPS) return false;
    try {
      return (await this.#sweep()) > 0;
    } catch (error) {
      this.#onError(`the reconciler failed: ${messageOf(error)}`);
      return true;
    }
  }

  /** The number of completions repaired and executions promoted. */
  async #sweep(): Promise<number> {
    let found = 0;
    for (let invocation = 1; invocation <= MAX_INVOCATIONS; invocation += 1) {
      const answer: unknown = await this.#function.invoke({});
      const { state, repaired, promoted } = isRecord(answer) ? answer : {};
      found += Number(repaired) + Number(promoted);
      if (state === "complete") return found;
      if (state !== "out_of_time") break;
    }
    throw new Error("the sweep did not complete");
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
