/** Waits for a flow of the local stack. */

import { setTimeout as sleep } from "node:timers/promises";
import type { FlowStatus, FlowStatusCounter } from "#local/flow-status.ts";
import { IdleReconciler } from "#local/idle-reconciler.ts";
import type { Stack } from "#local/stack.ts";
import type { Workers } from "#local/workers.ts";

export interface FlowToWaitFor {
  readonly stack: Stack;
  /** Undefined if only workers outside of the stack run the flow. */
  readonly workers: Pick<Workers, "isBusy"> | undefined;
  readonly counter: FlowStatusCounter;
  readonly signal?: AbortSignal;
  readonly onError: (error: string) => void;
}

/** The flow is read at this interval, and sooner when something has happened. */
const TICK_MS = 100;
/** Reading a flow takes at most a fifth of the time: large flows are read less often. */
const PAUSE_PER_READ = 4;
const MIN_PAUSE_MS = 2;
/**
 * The flow counts as idle after this time without any change. It is longer than the reconciler's grace period, so a
 * sweep that then finds no missed completion would not find one later.
 */
const IDLE_MS = 1_500;
/** The same while executions wait for a worker, which may be a program that is just starting. */
const UNCLAIMED_MS = 10_000;
/** The wait ends after this time without any change, even with messages in flight or a task that runs elsewhere. */
const STUCK_MS = 60_000;

/**
 * Resolves when every execution has ended, or when the flow is idle and a complete sweep of the reconciler has found nothing.
 * The flow must stay idle for a while: a worker may have ended an execution whose completion has not reached the queue yet.
 * Rejects with the signal's reason when the signal aborts.
 */
export async function untilEnded(
  { stack, workers, counter, signal, onError }: FlowToWaitFor,
  onStatus: (status: FlowStatus) => void,
): Promise<FlowStatus> {
  const idleReconciler = new IdleReconciler(stack.reconcile, onError);
  let seen = "";
  let changedAt = performance.now();
  for (;;) {
    // Before the flow is read: what happens during the read is not missed.
    const { next } = stack.activity;
    const readAt = performance.now();
    const status = await counter.take();
    const readMs = performance.now() - readAt;
    signal?.throwIfAborted();
    onStatus(status);
    if (counter.unfinished === 0) return status;
    const state = JSON.stringify([status, stack.poller.counts]);
    // A task runs, or a retry is scheduled: waiting for it does not count as idle, however late it is.
    if (state !== seen || workers?.isBusy === true || status.delayed > 0) changedAt = performance.now();
    seen = state;
    const unchangedMs = performance.now() - changedAt;
    if (unchangedMs > STUCK_MS) return status;
    const idleMs = status.ready > 0 ? UNCLAIMED_MS : IDLE_MS;
    if (status.active === 0 && unchangedMs > idleMs && (await isQueueEmpty(stack))) {
      if (!(await idleReconciler.run(status))) return status;
      // The effect of its repairs may not be visible at once.
      changedAt = performance.now();
    }
    await sleep(Math.max(MIN_PAUSE_MS, PAUSE_PER_READ * readMs), undefined, { signal });
    await Promise.race([next, sleep(TICK_MS, undefined, { signal })]);
  }
}

/** Resolves when no completion is left in the queue, and no execution in the workers. */
export async function untilQuiet(stack: Stack, workers: Workers, signal: AbortSignal): Promise<void> {
  for (;;) {
    const { next } = stack.activity;
    if (!workers.isBusy && (await isQueueEmpty(stack))) return;
    await Promise.race([next, sleep(TICK_MS, undefined, { signal })]);
  }
}

async function isQueueEmpty({ queue }: Stack): Promise<boolean> {
  const { visible, inFlight, delayed } = await queue.counts(queue.queueUrl);
  return visible + inFlight + delayed === 0;
}
