import { createWriteStream } from "node:fs";
import { access, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { finished } from "node:stream/promises";
import { fileURLToPath } from "node:url";
import type { SQSClient } from "@aws-sdk/client-sqs";
import { Activity } from "#local/activity.ts";
import { FunctionProcess } from "#local/function-process.ts";
import type { FunctionRuntime } from "#local/function-settings.ts";
import { GRACE_SECONDS, type ReconcileFunction } from "#local/idle-reconciler.ts";
import { Poller } from "#local/poller.ts";
import { type LocalQueue, startQueue } from "#local/queue.ts";
import type { StartQueueServer } from "#local/queue-server.ts";
import { startValkey, type ValkeyServer } from "#local/valkey-server.ts";
import type { Edition } from "#shared/contract/edition.ts";
import type { LaneId } from "#shared/contract/ids.ts";
import { PARTITION_CONFIG_KEY } from "#shared/contract/keys.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { ConfigurationError } from "#shared/errors.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { type ReadyPublisher, SqsReadyPublisher } from "#shared/ready/publisher.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";

const BUNDLES = {
  dispatch: fileURLToPath(new URL("../dist/dispatch/index.mjs", import.meta.url)),
  reconcile: fileURLToPath(new URL("../dist/reconcile/index.mjs", import.meta.url)),
};
/** Concurrent invocations of the dispatch function. */
const CONCURRENCY = 2;
const FUNCTION_TIMEOUT_MS = 10_000;
/** Shorter than the six function timeouts that AWS recommends: nothing is throttled here. */
const VISIBILITY_TIMEOUT_SECONDS = 12;

export interface StackOptions {
  readonly router: PartitionRouter;
  readonly maxCascadeDepth: number;
  /** The lanes that have a ready queue; none by default. */
  readonly lanes?: readonly LaneId[];
  readonly onError: (error: string) => void;
  /** The edition of the library; the default is the 11-KEYS edition. */
  readonly edition?: Edition;
  readonly visibilityTimeoutSeconds?: number;
  /** Starts the queue server; the default is fauxqs. */
  readonly queueServer?: StartQueueServer;
  /** The runtime of the functions; the default is `own`. */
  readonly runtime?: FunctionRuntime;
}

/** What runs a workflow, except for its workers: a Valkey server, queues, and the functions. */
export interface Stack extends AsyncDisposable {
  readonly server: ValkeyServer;
  readonly valkey: Valkey;
  readonly queue: LocalQueue;
  /** A client of the queue server. */
  readonly client: SQSClient;
  readonly completions: CompletionPublisher;
  readonly ready: ReadyPublisher;
  /** The environment of programs that use this stack. */
  readonly environment: Readonly<Record<string, string>>;
  /** Notified when the dispatch function has processed a batch, and when a task has run. */
  readonly activity: Activity;
  readonly poller: Poller;
  readonly functions: readonly FunctionProcess[];
  /** Has no schedule here: call it to sweep. */
  readonly reconcile: ReconcileFunction;
  /** The path of a file with the output of the functions. */
  readonly logFile: string;
  /** Appends to that file. */
  writeLog(text: string): void;
  /** Keeps the log file when the stack is disposed of. */
  keepLog(): void;
}

/**
 * Starts the stack. Disposing of it, or a failed start, removes all its processes and files, except for a kept log.
 * Throws a ConfigurationError if a function has not been built or no valkey-server is found.
 */
export async function startStack(options: StackOptions): Promise<Stack> {
  for (const [name, bundle] of Object.entries(BUNDLES)) {
    await access(bundle).catch(() => {
      throw new ConfigurationError([`the ${name} function is not built: run npm run build`]);
    });
  }
  await using parts = new AsyncDisposableStack();
  const log = parts.use(await openLog());
  const server = parts.use(await startValkey());
  const valkey = parts.adopt(
    new Valkey(
      { url: server.url, cluster: false },
      { onConnectionError: (error) => options.onError(`Valkey: ${error.message}`) },
    ),
    (client) => client.close(),
  );
  await recordPartitions(valkey, options.router);
  await ensureLibrary(valkey, options.edition);
  const queue = parts.use(
    await startQueue({
      visibilityTimeoutSeconds: options.visibilityTimeoutSeconds ?? VISIBILITY_TIMEOUT_SECONDS,
      lanes: options.lanes ?? [],
      server: options.queueServer,
    }),
  );
  const client = parts.adopt(queue.client(), (made: SQSClient) => made.destroy());
  const environment = environmentFor(options, server, queue);
  const newFunction = (name: keyof typeof BUNDLES) =>
    parts.use(
      new FunctionProcess({
        functionName: `sluice-${name}`,
        bundle: BUNDLES[name],
        timeoutMs: FUNCTION_TIMEOUT_MS,
        environment: {
          ...environment,
          ...functionSettings(options, queue),
          POWERTOOLS_SERVICE_NAME: `sluice-${name}`,
        },
        onOutput: log.write,
        ...(options.runtime === undefined ? {} : { runtime: options.runtime }),
      }),
    );
  const functions = Array.from({ length: CONCURRENCY }, () => newFunction("dispatch"));
  const activity = new Activity();
  const poller = parts.adopt(
    new Poller({
      client,
      queueUrl: queue.queueUrl,
      longPollSeconds: queue.longPollSeconds,
      environments: functions,
      onBatch: () => activity.notify(),
      onError: options.onError,
    }),
    (made) => made.stop(),
  );
  poller.start();
  const reconcile = newFunction("reconcile");
  const all = parts.move();
  return {
    server,
    valkey,
    queue,
    client,
    completions: new SqsCompletionPublisher(client, queue.queueUrl),
    ready: new SqsReadyPublisher(client, queue.readyQueueUrls),
    environment,
    activity,
    poller,
    functions,
    reconcile,
    logFile: log.file,
    writeLog: log.write,
    keepLog: log.keep,
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

function environmentFor(
  { router }: StackOptions,
  server: ValkeyServer,
  queue: LocalQueue,
): Record<string, string> {
  return {
    ...queue.environment,
    VALKEY_URL: server.url.href,
    VALKEY_CLUSTER_MODE: "false",
    FLOW_PARTITIONS: String(router.numFlowPartitions),
    COMPLETIONS_QUEUE_URL: queue.queueUrl,
    READY_QUEUES: JSON.stringify(Object.fromEntries(queue.readyQueueUrls)),
  };
}

function functionSettings({ maxCascadeDepth }: StackOptions, queue: LocalQueue): Record<string, string> {
  return {
    DEAD_LETTER_QUEUE_URL: queue.deadLetterQueueUrl,
    MAX_CASCADE_DEPTH: String(maxCascadeDepth),
    LIBRARY_EDITION: "auto",
    RECONCILE_GRACE_SECONDS: String(GRACE_SECONDS),
    POWERTOOLS_METRICS_NAMESPACE: "Sluice",
    POWERTOOLS_LOG_LEVEL: "INFO",
    CASCADE_RESTART_SECONDS: "1",
  };
}

/** The first start of a deployment records its partition counts (contract, section 2). */
async function recordPartitions(valkey: Valkey, { config }: PartitionRouter): Promise<void> {
  await valkey.call(
    "hset",
    PARTITION_CONFIG_KEY,
    "num_flow_partitions",
    config.numFlowPartitions,
    "num_budget_partitions",
    config.numBudgetPartitions,
    "num_quota_partitions",
    config.numQuotaPartitions,
  );
}

interface FunctionLog extends AsyncDisposable {
  readonly file: string;
  readonly write: (text: string) => void;
  readonly keep: () => void;
}

async function openLog(): Promise<FunctionLog> {
  const folder = await mkdtemp(join(tmpdir(), "sluice-log-"));
  const file = join(folder, "functions.log");
  const stream = createWriteStream(file);
  let isKept = false;
  return {
    file,
    write: (text) => stream.write(text),
    keep: () => {
      isKept = true;
    },
    async [Symbol.asyncDispose]() {
      stream.end();
      await finished(stream);
      if (!isKept) await rm(folder, { recursive: true, force: true });
    },
  };
}
