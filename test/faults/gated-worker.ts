/**
 * A worker that stops at its steps. It runs in the process of the harness and shares its connection: what stops is what it
 * sends, its handler, and the timers of its leases. To Valkey and the queue, that is a process that was killed or frozen.
 */

import type { WorkedExecution } from "#sdk/worker/finish.ts";
import type { ExecutionHandler } from "#sdk/worker/worker.ts";
import { workBatch } from "#sdk/worker/worker.ts";
import type { Pipelines, ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";
import type { Completion } from "#shared/contract/message.ts";
import type { SendResult } from "#shared/queue/batch-sender.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import type { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import type { TestBed } from "#test/faults/test-bed.ts";
import { type WorkerPoint, type WorkerStep, workerStepOf } from "#test/faults/worker-steps.ts";

/** Decides where a worker stops, and for how long. A promise that never settles is the worker's death. */
export interface WorkerGate {
  /** Whether a step with several commands is split, to stop between two of them. */
  splits(step: WorkerStep): boolean;
  pass(point: WorkerPoint): Promise<void>;
}

/** A third of it is the time until the first renewal, which a case waits for. */
const SHORT_LEASE_MS = 30;

export class GatedWorker implements Pipelines, CompletionPublisher {
  readonly #bed: TestBed;
  readonly #gate: WorkerGate;
  readonly #name: string;
  #renewals = Promise.withResolvers<void>();

  constructor(bed: TestBed, name: string, gate: WorkerGate) {
    this.#bed = bed;
    this.#name = name;
    this.#gate = gate;
  }

  /** One round. `untilRenewed`: with a short lease, and handlers that end when it was renewed or lost. */
  round(
    flow: FlowUnderTest,
    run: ExecutionHandler,
    { limit, untilRenewed = false }: { readonly limit: number; readonly untilRenewed?: boolean },
  ): Promise<WorkedExecution[]> {
    this.#renewals = Promise.withResolvers<void>();
    return workBatch(
      {
        valkey: this,
        completions: this,
        router: this.#bed.router,
        identity: { workerId: this.#name, instanceId: this.#name },
        retryDelaysMs: [],
      },
      { partition: flow.flowKeys.partition, lane: flow.lane },
      async (execution) => {
        await this.#gate.pass({ step: "run", timing: "before" });
        if (untilRenewed) await this.#renewals.promise;
        const outcome = await run(execution);
        await this.#gate.pass({ step: "run", timing: "after" });
        return outcome;
      },
      { limit, ...(untilRenewed ? { leaseTtlMs: SHORT_LEASE_MS } : {}) },
    );
  }

  async pipelined(commands: readonly ValkeyCommand[]): Promise<ValkeyResult[]> {
    const step = workerStepOf(commands);
    const results = await this.#pass(step, commands, (some) => this.#bed.valkey.pipelined(some));
    if (step === "renew") this.#renewals.resolve();
    return results;
  }

  send(completions: readonly Completion[]): Promise<SendResult[]> {
    return this.#pass("publish", completions, (some) => this.#bed.completions.send(some));
  }

  async #pass<Item, Result>(
    step: WorkerStep,
    items: readonly Item[],
    send: (items: readonly Item[]) => Promise<Result[]>,
  ): Promise<Result[]> {
    if (items.length === 0) return [];
    await this.#gate.pass({ step, timing: "before" });
    const results: Result[] = [];
    const first = items.length > 1 && this.#gate.splits(step) ? Math.floor(items.length / 2) : 0;
    if (first > 0) {
      results.push(...(await send(items.slice(0, first))));
      await this.#gate.pass({ step, timing: "during" });
    }
    results.push(...(await send(items.slice(first))));
    await this.#gate.pass({ step, timing: "after" });
    return results;
  }
}
