/**
 * What a case runs on: a real Valkey, the queue emulator, the built function in a process of its own. The function
 * reaches the first two through proxies that a trap can stop; the harness reaches them directly.
 */

import type { SQSRecord } from "aws-lambda";
import { parseBatchResponse } from "#local/event.ts";
import { FunctionProcess } from "#local/function-process.ts";
import { type LocalQueue, startQueue } from "#local/queue.ts";
import { PARTITION_CONFIG_KEY } from "#shared/contract/keys.ts";
import { DEFAULT_PARTITION_CONFIG, PartitionRouter } from "#shared/contract/partitions.ts";
import { messageOf } from "#shared/errors.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { bundleOf } from "#test/faults/bundles.ts";
import type { Servers } from "#test/faults/servers.ts";
import { type Delivery, SteppedQueue } from "#test/faults/stepped-queue.ts";
import type { Trap } from "#test/faults/trap.ts";
import { type Gate, ValkeyProxy } from "#test/faults/valkey-proxy.ts";
import { FaultyQueue } from "#test/support/faulty-queue.ts";

/** So many that hardly two flows of a run share a partition. */
const MANY_PARTITIONS = 65_536;
/** Longer than any case: what is to come again is put back by hand. */
const VISIBILITY_SECONDS = 600;
/** A case may break a message's delivery more often than an operator would stand. */
const MOST_RECEIVES = 1_000;
const FUNCTION_TIMEOUT_MS = 20_000;
/** Longer than any pause of a server. */
const PATIENCE_MS = 60_000;
const LINES_KEPT = 60;

export interface RigOptions {
  readonly functionTimeoutMs?: number;
  /** Goes over what the function finds in its environment. */
  readonly environment?: Readonly<Record<string, string>>;
  /** The function speaks to Valkey itself: no trap can stop it there. */
  readonly isDirect?: boolean;
  /** Flow partitions: fewer where all of them are swept. */
  readonly partitions?: number;
}

export class Rig extends SteppedQueue implements AsyncDisposable {
  readonly servers: Servers;
  readonly router: PartitionRouter;
  readonly completions: SqsCompletionPublisher;
  readonly sends: FaultyQueue;
  readonly proxies: ValkeyProxy[] = [];
  /** Cascade messages that the queue has accepted. */
  cascades = 0;
  trap: Trap | undefined;
  /** The last that the function wrote, for the report of a case that went wrong. */
  readonly log: string[] = [];
  readonly #parts: AsyncDisposableStack;
  readonly #options: RigOptions;
  readonly #environment: Record<string, string>;
  #valkey: Valkey | undefined;
  #fn: FunctionProcess | undefined;

  private constructor(
    parts: AsyncDisposableStack,
    servers: Servers,
    queue: LocalQueue,
    sends: FaultyQueue,
    options: RigOptions,
  ) {
    super(queue);
    this.#parts = parts;
    this.servers = servers;
    const numFlowPartitions = options.partitions ?? MANY_PARTITIONS;
    this.router = new PartitionRouter({ ...DEFAULT_PARTITION_CONFIG, numFlowPartitions });
    this.completions = new SqsCompletionPublisher(this.sqs, queue.queueUrl);
    this.sends = sends;
    this.#options = options;
    this.#environment = {
      ...queue.environment,
      AWS_ENDPOINT_URL_SQS: sends.endpoint,
      VALKEY_CLUSTER_MODE: String(servers.isCluster),
      // The SDK goes where the queue's URL points to, whatever its endpoint is.
      COMPLETIONS_QUEUE_URL: proxied(queue.queueUrl, sends.endpoint),
      DEAD_LETTER_QUEUE_URL: proxied(queue.deadLetterQueueUrl, sends.endpoint),
      FLOW_PARTITIONS: String(numFlowPartitions),
      POWERTOOLS_LOG_LEVEL: "WARN",
      POWERTOOLS_METRICS_DISABLED: "true",
    };
    parts.defer(() => this.#close());
  }

  static async start(servers: Servers, options: RigOptions = {}): Promise<Rig> {
    const parts = new AsyncDisposableStack();
    try {
      parts.use(servers);
      const queue = parts.use(await startQueue({ visibilityTimeoutSeconds: VISIBILITY_SECONDS }));
      const sends = parts.use(await FaultyQueue.before(queue.endpoint));
      const rig = new Rig(parts, servers, queue, sends, options);
      await rig.#prepare();
      return rig;
    } catch (error) {
      await parts.disposeAsync();
      throw error;
    }
  }

  /** The function's process. */
  get fn(): FunctionProcess {
    this.#fn ??= this.another();
    return this.#fn;
  }

  /** The harness' own connection; a new one where the last is broken. */
  get valkey(): Valkey {
    if (this.#valkey === undefined || this.#valkey.isBroken) {
      this.#valkey?.close();
      this.#valkey = new Valkey(
        { url: this.servers.url, cluster: this.servers.isCluster },
        {
          commandTimeoutMs: PATIENCE_MS,
          knownNodes: this.servers.nodes,
          onConnectionError: (error) => this.note(`the harness' connection: ${error.message}`),
        },
      );
    }
    return this.#valkey;
  }

  /** Drops the harness' own connection: the next one asks anew which server serves what. */
  reconnect(): void {
    this.#valkey?.close();
  }

  /** One more process of the function, the environment of `fn`. The rig ends it. */
  another(bundle = "dispatch", environment: Readonly<Record<string, string>> = {}): FunctionProcess {
    return this.#parts.use(
      new FunctionProcess({
        functionName: `sluice-${bundle}`,
        bundle: bundleOf(bundle),
        environment: this.environmentOf(environment),
        timeoutMs: this.#options.functionTimeoutMs ?? FUNCTION_TIMEOUT_MS,
        onOutput: (text) => this.note(text),
      }),
    );
  }

  /** What a function finds in its environment, with `more` over it. */
  environmentOf(more: Readonly<Record<string, string>> = {}): Record<string, string> {
    const [proxy] = this.proxies;
    const url = this.#options.isDirect || proxy === undefined ? this.servers.url : proxy.url;
    return { ...this.#environment, VALKEY_URL: url.href, ...this.#options.environment, ...more };
  }

  /** As `deliver`, with a trap set; the trap, which knows whether the function came to it. */
  async deliverInto(trap: Trap, records: readonly SQSRecord[]): Promise<Trap> {
    this.trap = trap;
    try {
      await this.deliver(records);
      await trap.settled();
    } finally {
      this.trap = undefined;
    }
    return trap;
  }

  /** Hands a batch to a function and reads its answer as Lambda would. Acknowledges nothing. */
  async invoke(records: readonly SQSRecord[], fn = this.fn): Promise<Delivery> {
    const ids = new Set(records.map(({ messageId }) => messageId));
    try {
      const verdict = parseBatchResponse(await fn.invoke({ Records: records }), ids);
      if (verdict.kind === "partial") return { failed: verdict.failed, reason: undefined };
      return { failed: ids, reason: verdict.reason };
    } catch (error) {
      return { failed: ids, reason: messageOf(error) };
    }
  }

  /** As an event source mapping does it: invoke, then delete what succeeded. */
  async deliver(records: readonly SQSRecord[], fn = this.fn): Promise<Delivery> {
    const delivery = await this.invoke(records, fn);
    await this.settle(records, delivery);
    return delivery;
  }

  /** Loads the library where it is missing, as whoever works on the server needs it. */
  async loadLibrary(): Promise<void> {
    await ensureLibrary(this.valkey);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#parts.disposeAsync();
  }

  async #prepare(): Promise<void> {
    this.sends.onAccepted = (queueUrl, { MessageAttributes: attributes }) => {
      const isCascade = Number(attributes?.depth?.StringValue ?? 0) > 0;
      if (isCascade && this.#stepOf(queueUrl) === "send") this.cascades += 1;
    };
    this.sends.gate = {
      guards: (queueUrl, moment) => this.trap?.guards(this.#stepOf(queueUrl), moment) ?? false,
      pass: () => this.trap?.spring() ?? Promise.resolve("pass"),
    };
    await this.allowReceives(MOST_RECEIVES);
    const { numFlowPartitions } = this.router;
    await this.valkey.call("hset", PARTITION_CONFIG_KEY, "num_flow_partitions", numFlowPartitions);
    await this.loadLibrary();
    if (this.#options.isDirect) return;
    const gate: Gate = {
      guards: (step, moment) => this.trap?.guards(step, moment) ?? false,
      pass: () => this.trap?.spring() ?? Promise.resolve("pass"),
    };
    for (const port of this.servers.ports) {
      this.proxies.push(this.#parts.use(await ValkeyProxy.before(port, gate)));
    }
    await this.servers.announce(this.proxies.map(({ port }) => port));
  }

  #stepOf(queueUrl: string): "send" | "dead_letter" {
    return new URL(queueUrl).pathname === new URL(this.queue.deadLetterQueueUrl).pathname
      ? "dead_letter"
      : "send";
  }

  #close(): void {
    this.#valkey?.close();
    this.sqs.destroy();
  }

  /** Keeps a line for the report of a case that goes wrong. */
  note(text: string): void {
    this.log.push(text.trimEnd());
    if (this.log.length > LINES_KEPT) this.log.shift();
  }
}

function proxied(queueUrl: string, endpoint: string): string {
  return new URL(new URL(queueUrl).pathname, endpoint).href;
}
