/** Takes, runs and finishes executions, one by one. What happens at the same time shares round trips. */

import { v5 as uuidV5 } from "uuid";
import { type Candidate, classify, type Decision, justReleased } from "#sdk/kit/classify.ts";
import { Coalescer } from "#sdk/kit/coalescer.ts";
import {
  type EndedTask,
  type FinishedTask,
  type FinishResult,
  finishTasks,
  updateChildren,
} from "#sdk/kit/finish-tasks.ts";
import { LanePauses, PARK_SECONDS } from "#sdk/kit/lane-pauses.ts";
import type { ClaimedTask, WorkerPorts } from "#sdk/kit/ports.ts";
import type { TaskRegistry } from "#sdk/kit/registry.ts";
import { runClaimed } from "#sdk/kit/run-claimed.ts";
import { LEASE_TTL_MS, LeaseTaker, type TakeResult, type ToTake } from "#sdk/kit/take.ts";
import { LOST_RACE_CODES } from "#sdk/worker/leasing.ts";
import { LeaseRenewals } from "#sdk/worker/renew.ts";
import { type CancelResult, cancelExecutions } from "#shared/cancellation/cancel-executions.ts";
import type { ExecutionId } from "#shared/contract/ids.ts";
import { messageOf } from "#shared/errors.ts";
import type { ReadyExecution } from "#shared/ready/message.ts";

/** One delivery of a ready message, or an execution that was found without a message. */
export interface Delivery {
  /** Names the message, or is a new UUID for an execution without one. */
  readonly messageId: string;
  /** How often the queue has delivered the message, this time included. */
  readonly receiveCount: number;
  readonly ready: ReadyExecution;
  /** This process has just made the execution eligible. */
  readonly isJustReleased?: boolean;
}

/** What becomes of the message. */
export type DeliveryResult =
  /** Acknowledge it. `ran`: this worker has run the execution. */
  | { readonly kind: "done"; readonly ran: boolean }
  /** Deliver it again, after `afterMs` milliseconds if given, else when its visibility timeout ends. */
  | { readonly kind: "retry"; readonly reason: string; readonly afterMs?: number };

/** An execution that can be taken, or the result of the delivery. */
export type Preparation =
  | {
      readonly kind: "runnable";
      readonly delivery: Delivery;
      readonly candidate: Candidate;
      /** Whether a worker lost the execution before: it may be what ended that worker. */
      readonly isSuspect: boolean;
      readonly toTake: ToTake;
    }
  | { readonly kind: "settled"; readonly result: DeliveryResult };

type Runnable = Extract<Preparation, { kind: "runnable" }>;

/** Of the time until the deadline, in milliseconds: to write outcomes and to update children. */
export const FINISH_MS = 5_000;
/** Any fixed UUID: lease ids are UUIDs of version 5 in this namespace. */
const LEASE_NAMESPACE = "6f4c1b52-3f9c-4c83-9a55-0d4f5b0f6a1e";
/** Deliveries whose lease ids are compared: a queue moves a message to the dead-letter queue after 100. */
const MAX_RECEIVES = 100;
const SETTLED: DeliveryResult = { kind: "done", ran: false };
const PARKED: DeliveryResult = {
  kind: "retry",
  reason: "the lane is paused",
  afterMs: PARK_SECONDS * 1_000,
};
const RAN: DeliveryResult = { kind: "done", ran: true };
const CANCELLED = "flow_cancelled";
/** A refusal of a claim that passes: another worker holds a grant, which expires soon. */
const GRANTED_TO_ANOTHER = "grant_already_exists";
const GRANT_RETRY_MS = 5_000;

/**
 * A worker without its sources of work. A delivery is `done` only when its execution needs no further message: it has ended
 * and its children are updated, or another worker holds it. If the process dies before that, the message is delivered again,
 * or the reconciler finds the execution.
 */
export class WorkerEngine implements Disposable {
  readonly #ports: WorkerPorts;
  readonly #tasks: TaskRegistry;
  readonly #renewals: LeaseRenewals;
  readonly #classifier: Coalescer<ReadyExecution, Decision>;
  readonly #taker: Coalescer<ToTake, TakeResult>;
  readonly #finisher: Coalescer<FinishedTask, FinishResult>;
  readonly #canceller: Coalescer<ExecutionId, CancelResult>;
  readonly pauses: LanePauses;

  constructor(ports: WorkerPorts, tasks: TaskRegistry) {
    this.#ports = ports;
    this.#tasks = tasks;
    this.#renewals = new LeaseRenewals(ports, ports.leaseTtlMs ?? LEASE_TTL_MS);
    this.#classifier = new Coalescer((ready) => classify(ports, tasks, ready));
    const taker = new LeaseTaker(ports);
    this.#taker = new Coalescer((wanted) => taker.take(wanted));
    this.pauses = new LanePauses(ports.valkey, ports.log);
    this.#finisher = new Coalescer((runs) => finishTasks(ports, runs));
    this.#canceller = new Coalescer((ids) =>
      cancelExecutions(
        ports,
        ids.map((id) => ({ id, reason: CANCELLED })),
      ),
    );
  }

  [Symbol.dispose](): void {
    this.#renewals[Symbol.dispose]();
  }

  /** Reads the record of an execution, and settles deliveries that need no run. Never rejects. */
  async prepare(delivery: Delivery, deadlineMs: number): Promise<Preparation> {
    try {
      const candidate = delivery.isJustReleased
        ? justReleased(this.#ports.router, this.#tasks, delivery.ready)
        : undefined;
      if (candidate !== undefined) {
        if (await this.pauses.isPaused(delivery.ready.lane)) return await this.#park(delivery, deadlineMs);
        const toTake: ToTake = { kind: "claim", candidate, leaseId: leaseIdOf(delivery, 1) };
        return { kind: "runnable", delivery, candidate, isSuspect: false, toTake };
      }
      const [decision, isPaused] = await Promise.all([
        this.#classifier.run(delivery.ready),
        this.pauses.isPaused(delivery.ready.lane),
      ]);
      if (decision.kind === "claim" || decision.kind === "promote" || decision.kind === "reclaim") {
        if (isPaused) return await this.#park(delivery, deadlineMs);
        const { candidate } = decision;
        const toTake = { ...decision, leaseId: leaseIdOf(delivery, delivery.receiveCount) };
        return { kind: "runnable", delivery, candidate, isSuspect: candidate.reclaims > 0, toTake };
      }
      return { kind: "settled", result: await this.#settle(delivery, decision, deadlineMs) };
    } catch (error) {
      return { kind: "settled", result: retry(messageOf(error)) };
    }
  }

  /**
   * Takes, runs and finishes an execution. Never rejects. No task starts whose time limit exceeds the time until
   * `deadlineMs` (milliseconds since the epoch).
   */
  async run({ delivery, candidate, toTake }: Runnable, deadlineMs: number): Promise<DeliveryResult> {
    const { kind, timeoutMs } = candidate.task;
    const leftMs = deadlineMs - this.#ports.now() - FINISH_MS;
    if (timeoutMs > leftMs) {
      this.#ports.log.warn("task not started: its time limit exceeds the rest of the invocation", {
        execution_id: delivery.ready.executionId,
        kind,
        timeout_ms: timeoutMs,
        left_ms: leftMs,
      });
      return { kind: "retry", reason: "too little time is left", afterMs: 0 };
    }
    try {
      const taken = await this.#taker.run(toTake);
      if (taken.kind !== "claimed") return await this.#notTaken(candidate, taken, deadlineMs);
      return await this.#runTaken(taken.claimed, deadlineMs);
    } catch (error) {
      return retry(messageOf(error));
    }
  }

  /**
   * Puts an execution off whose lane is paused. Its message is sent anew with a delay, and then acknowledged: delivered again and
   * again, it would reach the dead-letter queue, and hidden for hours, it would outlive the pause. If the process dies in
   * between, the message is there twice, and the second claim is refused.
   */
  async #park(delivery: Delivery, deadlineMs: number): Promise<Preparation> {
    const { ready, log } = this.#ports;
    const { lane, executionId } = delivery.ready;
    const fields = { lane, execution_id: executionId, message_id: delivery.messageId };
    // Without a queue, polling finds it again.
    if (ready?.announces(lane) !== true) return parked(PARKED);
    const [sent] = await ready.announce([{ ...delivery.ready, delaySeconds: PARK_SECONDS }], deadlineMs);
    if (sent?.ok !== true) return parked(PARKED);
    log.info("lane is paused: ready message sent again with a delay", fields);
    return parked(SETTLED);
  }

  async #runTaken(claimed: ClaimedTask, deadlineMs: number): Promise<DeliveryResult> {
    const { task, lease, queueWaitMs, isReclaim } = claimed;
    const signal = this.#renewals.hold(claimed, claimed.claimedAt);
    try {
      const { outcome, runMs } = await runClaimed(this.#ports, claimed, signal);
      const finished: FinishResult = signal.aborted
        ? { kind: "lease_lost" }
        : await this.#finisher.run({ claimed, outcome, deadlineMs });
      this.#ports.metrics.ran(task, {
        outcome: finished.kind === "lease_lost" ? "lease_lost" : outcome.outcome,
        runMs,
        queueWaitMs,
        attempt: lease.attemptIndex + 1,
        isReclaim,
      });
      return finished.kind === "error" ? retry(messageOf(finished.error)) : RAN;
    } finally {
      this.#renewals.release(claimed);
    }
  }

  async #settle(
    delivery: Delivery,
    decision: Exclude<Decision, { kind: "claim" | "promote" | "reclaim" }>,
    deadlineMs: number,
  ): Promise<DeliveryResult> {
    const { log, metrics } = this.#ports;
    const { executionId, traceparent } = delivery.ready;
    const fields = { execution_id: executionId, message_id: delivery.messageId };
    switch (decision.kind) {
      case "acknowledge":
        log.info("ready message not needed", { ...fields, reason: decision.reason });
        return SETTLED;
      case "leased":
        // Taken with an earlier delivery of this message, by a process that may be dead: the message stays until the lease ends.
        return isOwnLease(delivery, decision.leaseId)
          ? { kind: "retry", reason: "an earlier delivery holds the lease", afterMs: decision.afterMs }
          : SETTLED;
      case "delayed":
        return { kind: "retry", reason: "its time has not come", afterMs: decision.afterMs };
      case "unknown_kind":
        metrics.unknownKind(decision.lane, decision.executionKind);
        log.error("this worker has no task for the execution", {
          ...fields,
          lane: decision.lane,
          kind: decision.executionKind,
        });
        return retry(`no task for kind "${decision.executionKind}" in lane "${decision.lane}"`);
      case "cancel": {
        const result = await this.#canceller.run(executionId);
        return result.kind === "failed" ? retry(messageOf(result.error)) : SETTLED;
      }
      case "dispatch": {
        const { outcome, flowId } = decision;
        return this.#updateChildren({ executionId, flowId, outcome, traceparent }, deadlineMs);
      }
      case "failed":
        return retry(messageOf(decision.error));
    }
  }

  async #notTaken(
    { ready, flowId }: Candidate,
    result: Exclude<TakeResult, { kind: "claimed" }>,
    deadlineMs: number,
  ): Promise<DeliveryResult> {
    switch (result.kind) {
      case "limit_reached": {
        const { executionId, traceparent } = ready;
        if (flowId === undefined) return SETTLED;
        return this.#updateChildren({ executionId, flowId, outcome: "failed", traceparent }, deadlineMs);
      }
      case "lost_race":
        if (result.code === GRANTED_TO_ANOTHER) {
          return { kind: "retry", reason: "another worker holds a grant", afterMs: GRANT_RETRY_MS };
        }
        // Any other refusal is an error: the execution still waits, and nothing else would report it.
        return LOST_RACE_CODES.has(result.code) ? SETTLED : retry(`the claim was refused: ${result.code}`);
      case "failed":
        return retry(messageOf(result.error));
    }
  }

  async #updateChildren(ended: EndedTask, deadlineMs: number): Promise<DeliveryResult> {
    const [result] = await updateChildren(this.#ports, [ended], deadlineMs);
    if (result === undefined) return retry("the children were not updated");
    return result.ok ? SETTLED : retry(result.error.message);
  }
}

/** The same message and receive count give the same lease: a redelivery recognizes what an earlier delivery took. */
function leaseIdOf({ messageId }: Delivery, receiveCount: number): string {
  return uuidV5(`${messageId}:${receiveCount}`, LEASE_NAMESPACE);
}

function isOwnLease(delivery: Delivery, leaseId: string): boolean {
  const receives = Math.min(delivery.receiveCount, MAX_RECEIVES);
  return Array.from({ length: receives }, (_, at) => leaseIdOf(delivery, at + 1)).includes(leaseId);
}

function parked(result: DeliveryResult): Preparation {
  return { kind: "settled", result };
}

function retry(reason: string): DeliveryResult {
  return { kind: "retry", reason };
}
