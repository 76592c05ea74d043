import { randomUUID } from "node:crypto";
import { hostname } from "node:os";
import { WorkerEngine } from "#sdk/kit/engine.ts";
import { inlineDispatch } from "#sdk/kit/inline-dispatch.ts";
import { LaneRunner } from "#sdk/kit/lane-runner.ts";
import { LocalReady } from "#sdk/kit/local-ready.ts";
import type { TaskMiddleware } from "#sdk/kit/middleware.ts";
import { PollSource } from "#sdk/kit/poll-source.ts";
import type { TaskMetrics } from "#sdk/kit/ports.ts";
import { QueueSource, type ReceiveTimes } from "#sdk/kit/queue-source.ts";
import { ReadyQueues } from "#sdk/kit/ready-queues.ts";
import type { TaskRegistry } from "#sdk/kit/registry.ts";
import type { WorkerClient } from "#sdk/worker/leasing.ts";
import type { LaneId } from "#shared/contract/ids.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import type { QueueClient } from "#shared/queue/client.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import { SqsReadyPublisher } from "#shared/ready/publisher.ts";
import type { Telemetry } from "#shared/runtime/telemetry.ts";

/** What a pool needs. */
export interface LanePoolPorts extends Pick<WorkerClient, "valkey"> {
  readonly router: PartitionRouter;
  readonly sqs: QueueClient;
  readonly completions: CompletionPublisher;
  /** The lanes that are received from a queue, and where executions of other workers are announced. */
  readonly readyQueueUrls: ReadonlyMap<LaneId, string>;
  /** Other times than the default ones for receiving. */
  readonly receive?: ReceiveTimes;
  readonly dispatch: "inline" | "queue";
  readonly telemetry: Telemetry;
  readonly metrics: TaskMetrics;
  readonly middleware?: readonly TaskMiddleware[] | undefined;
  /** How long leases last, in milliseconds. Default: 60,000. */
  readonly leaseTtlMs?: number;
  /** Loads the Lua library where it is missing. */
  readonly ensureLibrary: () => Promise<void>;
}

/** Receives and runs the executions of several lanes: a container worker without its connections. */
export class LanePool implements Disposable {
  readonly #ports: LanePoolPorts;
  readonly #engine: WorkerEngine;
  readonly #queues: SqsReadyPublisher | undefined;
  readonly #lanes: readonly LaneRunner[];
  readonly #sources: readonly (PollSource | QueueSource)[];

  /** `places`: how many executions of each lane run at once. */
  constructor(ports: LanePoolPorts, registry: TaskRegistry, places: ReadonlyMap<LaneId, number>) {
    const { valkey, router, sqs, completions, readyQueueUrls, dispatch, telemetry, metrics } = ports;
    this.#ports = ports;
    this.#queues = readyQueueUrls.size === 0 ? undefined : new SqsReadyPublisher(sqs, readyQueueUrls);
    const ready = new LocalReady(this.#queues, registry);
    const dispatcher = inlineDispatch({
      valkey,
      router,
      publisher: completions,
      ready,
      telemetry,
      ensureLibrary: ports.ensureLibrary,
      now: Date.now,
    });
    this.#engine = new WorkerEngine(
      {
        valkey,
        router,
        identity: { workerId: hostname(), instanceId: `${hostname()}-${process.pid}-${randomUUID()}` },
        completions,
        ready: this.#queues,
        dispatch: dispatch === "queue" ? undefined : dispatcher,
        log: telemetry,
        metrics,
        middleware: ports.middleware,
        ...(ports.leaseTtlMs === undefined ? {} : { leaseTtlMs: ports.leaseTtlMs }),
        now: Date.now,
      },
      registry,
    );
    this.#lanes = [...places].map(
      ([lane, concurrency]) =>
        new LaneRunner(this.#engine, lane, { concurrency, hasQueue: readyQueueUrls.has(lane) }),
    );
    const readyQueues = new ReadyQueues(sqs, readyQueueUrls);
    this.#sources = this.#lanes.map((lane) => {
      ready.add(lane);
      const url = readyQueueUrls.get(lane.lane);
      return url === undefined
        ? new PollSource(valkey, router, lane, telemetry)
        : new QueueSource(sqs, url, readyQueues, lane, telemetry, ports.receive);
    });
  }

  /** Whether no execution runs or waits in this process. */
  get isIdle(): boolean {
    return this.#lanes.every((lane) => lane.isIdle);
  }

  /**
   * Runs until the signal aborts. Then it begins no further execution, gives back what has not begun, and resolves when all
   * running tasks have ended, or after `drainMs` milliseconds.
   */
  async run(signal: AbortSignal, drainMs: number): Promise<void> {
    const { telemetry } = this.#ports;
    telemetry.info("worker started", { lanes: this.#lanes.map(({ lane }) => lane) });
    await Promise.all(this.#sources.map((source) => source.run(signal)));
    for (const lane of this.#lanes) lane.stop();
    await this.#giveBack();
    await this.#drain(drainMs);
    await this.#giveBack();
    await Promise.all(
      this.#sources.map((source) => (source instanceof QueueSource ? source.settled() : undefined)),
    );
    telemetry.info("worker stopped", {});
  }

  /** Announces the executions without a message that have not begun, so that other workers run them. */
  async #giveBack(): Promise<void> {
    const queues = this.#queues;
    const unstarted = this.#lanes.flatMap((lane) => lane.takeUnstarted());
    await queues?.announce(unstarted.filter(({ lane }) => queues.announces(lane)));
  }

  async #drain(drainMs: number): Promise<void> {
    const { promise: late, resolve } = Promise.withResolvers<"late">();
    const timer = setTimeout(() => resolve("late"), drainMs);
    try {
      for (const lane of this.#lanes) {
        while (!lane.isIdle) {
          if ((await Promise.race([lane.changed, late])) === "late") {
            this.#ports.telemetry.warn(
              "worker stopped while tasks were running: they run again after their leases",
              { lane: lane.lane },
            );
            return;
          }
        }
      }
    } finally {
      clearTimeout(timer);
    }
  }

  [Symbol.dispose](): void {
    this.#engine[Symbol.dispose]();
  }
}
