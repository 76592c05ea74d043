import { readWorkerConfig, type WorkerConfig } from "#sdk/kit/config.ts";
import type { AnyTask } from "#sdk/kit/define-task.ts";
import { warnOfBudgets } from "#sdk/kit/foreign-library.ts";
import { LanePool } from "#sdk/kit/lane-pool.ts";
import type { TaskMiddleware } from "#sdk/kit/middleware.ts";
import type { TaskMetrics } from "#sdk/kit/ports.ts";
import { TaskRegistry } from "#sdk/kit/registry.ts";
import { ReconnectingValkey } from "#sdk/reconnecting-valkey.ts";
import { type LaneId, parseLaneId } from "#shared/contract/ids.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { ConfigurationError } from "#shared/errors.ts";
import { queueClient } from "#shared/queue/client.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import type { Environment } from "#shared/runtime/environment.ts";
import { createLogger } from "#shared/runtime/logger.ts";
import type { Telemetry } from "#shared/runtime/telemetry.ts";
import type { NodeAddress } from "#shared/valkey/address.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary, type LibraryState } from "#shared/valkey/library.ts";
import { checkPartitions } from "#shared/valkey/start-up.ts";

/** The options of `containerWorker`. */
export interface ContainerWorkerOptions {
  /** The tasks that this worker runs. */
  readonly tasks: readonly AnyTask[];
  /** How many executions of a lane run at once, by lane. Default: 10 for each lane. */
  readonly concurrency?: Readonly<Record<string, number>>;
  /**
   * Where the children of an ended execution are updated. `inline`, the default: in this process, which then runs those of its
   * own lanes at once. `queue`: by the dispatch function.
   */
  readonly dispatch?: "inline" | "queue";
  /** The variables of docs/configuration.md. Default: `process.env`. */
  readonly environment?: Environment;
  /** Default: structured lines on standard output. */
  readonly telemetry?: Telemetry;
  /** Default: none. */
  readonly metrics?: TaskMetrics;
  /** Around each run of a task. Default: none. */
  readonly taskMiddleware?: readonly TaskMiddleware[];
  /** How long `run` waits for running tasks when it must stop, in milliseconds. Default: 25,000, below ECS's 30 s. */
  readonly drainMs?: number;
}

/** A worker that runs until it is told to stop. */
export interface ContainerWorker {
  /**
   * Runs until the signal aborts, or without a signal until SIGTERM or SIGINT. Then it begins no further execution, gives back
   * what has not begun, and resolves when all running tasks have ended, or after `drainMs`: their leases then expire, and
   * other workers run them again.
   *
   * @throws ConfigurationError, ValkeyError if the worker cannot start.
   */
  run(signal?: AbortSignal): Promise<void>;
}

const DEFAULT_CONCURRENCY = 10;
const MAX_CONCURRENCY = 10_000;
const DRAIN_MS = 25_000;
const NO_METRICS: TaskMetrics = { ran: () => undefined, unknownKind: () => undefined };

/**
 * Creates a worker for a container, a virtual machine or a laptop. It receives the ready messages of its lanes, and polls the
 * lanes that have no ready queue.
 *
 * @throws ConfigurationError that lists every missing or invalid variable, or an invalid option.
 *
 * @example
 * await containerWorker({ tasks: [resize], concurrency: { images: 4 } }).run();
 */
export function containerWorker(options: ContainerWorkerOptions): ContainerWorker {
  const { tasks, concurrency = {}, environment = process.env } = options;
  const registry = new TaskRegistry(tasks);
  const config = readWorkerConfig(environment, registry, { needsReadyQueues: false });
  const places = placesOf(registry, concurrency);
  return { run: (signal) => runWorker(options, registry, config, places, signal) };
}

function placesOf(
  registry: TaskRegistry,
  concurrency: Readonly<Record<string, number>>,
): ReadonlyMap<LaneId, number> {
  const errors: string[] = [];
  const given = new Map<LaneId, number>();
  for (const [name, value] of Object.entries(concurrency)) {
    const lane = parseLaneId(name);
    if (!lane.ok || !registry.lanes.includes(lane.value)) {
      errors.push(`concurrency.${name}: no task has this lane`);
    } else if (!Number.isSafeInteger(value) || value < 1 || value > MAX_CONCURRENCY) {
      errors.push(`concurrency.${name} is ${value}: expected an integer from 1 to ${MAX_CONCURRENCY}`);
    } else given.set(lane.value, value);
  }
  if (errors.length > 0) throw new ConfigurationError(errors);
  return new Map(registry.lanes.map((lane) => [lane, given.get(lane) ?? DEFAULT_CONCURRENCY]));
}

async function runWorker(
  options: ContainerWorkerOptions,
  registry: TaskRegistry,
  config: WorkerConfig,
  places: ReadonlyMap<LaneId, number>,
  signal: AbortSignal | undefined,
): Promise<void> {
  const {
    dispatch = "inline",
    telemetry = loggedTelemetry(),
    metrics = NO_METRICS,
    drainMs = DRAIN_MS,
  } = options;
  using stop = stopSignal(signal);
  const connect = (knownNodes: readonly NodeAddress[] = []): Valkey =>
    new Valkey(config.valkey, {
      knownNodes,
      onConnectionError: ({ message }) => telemetry.warn("connection to Valkey failed", { reason: message }),
    });
  using resources = new DisposableStack();
  const valkey = resources.adopt(new ReconnectingValkey(connect), (open) => open.close());
  const loadLibrary = (): Promise<LibraryState> => ensureLibrary(valkey.client, config.edition);
  await checkPartitions(valkey.client, config);
  if ((await loadLibrary()) === "foreign") warnOfBudgets(telemetry);
  const sqs = resources.adopt(queueClient(), (open) => open.destroy());
  const pool = resources.use(
    new LanePool(
      {
        valkey,
        router: new PartitionRouter(config.partitions),
        sqs,
        completions: new SqsCompletionPublisher(sqs, config.completionsQueueUrl),
        readyQueueUrls: config.readyQueueUrls,
        dispatch,
        telemetry,
        metrics,
        middleware: options.taskMiddleware,
        ensureLibrary: async () => void (await loadLibrary()),
      },
      registry,
      places,
    ),
  );
  await pool.run(stop.signal, drainMs);
}

/** Aborts with the given signal, or on SIGTERM and SIGINT. */
function stopSignal(given: AbortSignal | undefined): { readonly signal: AbortSignal } & Disposable {
  if (given !== undefined) return { signal: given, [Symbol.dispose]: () => undefined };
  const stopping = new AbortController();
  const stop = (): void => stopping.abort();
  process.on("SIGTERM", stop);
  process.on("SIGINT", stop);
  return {
    signal: stopping.signal,
    [Symbol.dispose]: () => {
      process.off("SIGTERM", stop);
      process.off("SIGINT", stop);
    },
  };
}

function loggedTelemetry(): Telemetry {
  const logger = createLogger("worker");
  return {
    count: () => undefined,
    info: (message, fields) => logger.info(message, fields),
    warn: (message, fields) => logger.warn(message, fields),
    error: (message, fields) => logger.error(message, fields),
  };
}
