/**
 * The test bed of a case: a real Valkey, the queue emulator, and the built function in a process. The function
 * reaches Valkey and the queue through proxies that can stop at a breakpoint; the harness reaches them directly.
 */

import type { SQSRecord } from "aws-lambda";
import { parseBatchResponse } from "#local/event.ts";
import { FunctionProcess } from "#local/function-process.ts";
import { type LocalQueue, startQueue } from "#local/queue.ts";
import { checkConsistency } from "#shared/consistency/check.ts";
import { describeFinding } from "#shared/consistency/finding.ts";
import { PARTITION_CONFIG_KEY } from "#shared/contract/keys.ts";
import { DEFAULT_PARTITION_CONFIG, PartitionRouter } from "#shared/contract/partitions.ts";
import { messageOf } from "#shared/errors.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import type { NodeAddress } from "#shared/valkey/address.ts";
import { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import type { Breakpoint } from "#test/faults/breakpoint.ts";
import { bundleOf } from "#test/faults/bundles.ts";
import { type Delivery, ManualQueue } from "#test/faults/manual-queue.ts";
import type { Servers } from "#test/faults/servers.ts";
import { type Gate, ValkeyProxy } from "#test/faults/valkey-proxy.ts";
import { FaultyQueue } from "#test/support/faulty-queue.ts";

/** Enough that two flows of a run rarely share a partition. */
const MANY_PARTITIONS = 65_536;
/** Longer than any case: the harness itself returns messages to the queue. */
const VISIBILITY_SECONDS = 600;
/** More than any case needs: no message moves to the dead-letter queue by its receive count. */
const MAX_RECEIVES = 1_000;
const FUNCTION_TIMEOUT_MS = 20_000;
/** Longer than any pause of a server. */
const COMMAND_TIMEOUT_MS = 60_000;
const LINES_KEPT = 60;

export interface TestBedOptions {
  readonly functionTimeoutMs?: number;
  /** Overrides environment variables of the function. */
  readonly environment?: Readonly<Record<string, string>>;
  /** The function connects to Valkey without a proxy, so breakpoints do not work there. */
  readonly isDirect?: boolean;
  /** The number of flow partitions. */
  readonly partitions?: number;
}

export class TestBed extends ManualQueue implements AsyncDisposable {
  readonly servers: Servers;
  readonly router: PartitionRouter;
  readonly completions: SqsCompletionPublisher;
  readonly queueProxy: FaultyQueue;
  readonly proxies: ValkeyProxy[] = [];
  /** The number of cascade messages that the queue accepted. */
  cascades = 0;
  breakpoint: Breakpoint | undefined;
  /** The last lines of the function log and of the harness, for the report of a failed case. */
  readonly log: string[] = [];
  readonly #parts: AsyncDisposableStack;
  readonly #options: TestBedOptions;
  readonly #environment: Record<string, string>;
  #valkey: Valkey | undefined;
  #fn: FunctionProcess | undefined;

  private constructor(
    parts: AsyncDisposableStack,
    servers: Servers,
    queue: LocalQueue,
    queueProxy: FaultyQueue,
    options: TestBedOptions,
  ) {
    super(queue);
    this.#parts = parts;
    this.servers = servers;
    const numFlowPartitions = options.partitions ?? MANY_PARTITIONS;
    this.router = new PartitionRouter({ ...DEFAULT_PARTITION_CONFIG, numFlowPartitions });
    this.completions = new SqsCompletionPublisher(this.sqs, queue.queueUrl);
    this.queueProxy = queueProxy;
    this.#options = options;
    this.#environment = {
      ...queue.environment,
      AWS_ENDPOINT_URL_SQS: queueProxy.endpoint,
      VALKEY_CLUSTER_MODE: String(servers.isCluster),
      // The SDK connects to the host of the queue URL, whatever its endpoint is.
      COMPLETIONS_QUEUE_URL: proxied(queue.queueUrl, queueProxy.endpoint),
      DEAD_LETTER_QUEUE_URL: proxied(queue.deadLetterQueueUrl, queueProxy.endpoint),
      FLOW_PARTITIONS: String(numFlowPartitions),
      POWERTOOLS_LOG_LEVEL: "WARN",
      POWERTOOLS_METRICS_DISABLED: "true",
    };
    parts.defer(() => this.#close());
  }

  static async start(servers: Servers, options: TestBedOptions = {}): Promise<TestBed> {
    const parts = new AsyncDisposableStack();
    try {
      parts.use(servers);
      const queue = parts.use(await startQueue({ visibilityTimeoutSeconds: VISIBILITY_SECONDS }));
      const queueProxy = parts.use(await FaultyQueue.before(queue.endpoint));
      const bed = new TestBed(parts, servers, queue, queueProxy, options);
      await bed.#prepare();
      return bed;
    } catch (error) {
      await parts.disposeAsync();
      throw error;
    }
  }

  /** The function process. It is started on first use. */
  get fn(): FunctionProcess {
    this.#fn ??= this.startFunction();
    return this.#fn;
  }

  /** The connection of the harness. A broken connection is replaced. */
  get valkey(): Valkey {
    if (this.#valkey === undefined || this.#valkey.isBroken) {
      this.#valkey?.close();
      this.#valkey = this.connect(this.servers.nodes, COMMAND_TIMEOUT_MS);
    }
    return this.#valkey;
  }

  /** Opens another connection, which the caller closes. */
  connect(knownNodes: readonly NodeAddress[], commandTimeoutMs = 5_000): Valkey {
    return new Valkey(
      { url: this.servers.url, cluster: this.servers.isCluster },
      {
        commandTimeoutMs,
        knownNodes: [...knownNodes, ...this.servers.nodes],
        onConnectionError: (error) => this.note(`connection of the harness: ${error.message}`),
      },
    );
  }

  /** Closes the connection of the harness, so that the next use reads the cluster topology again. */
  reconnect(): void {
    this.#valkey?.close();
  }

  /** Starts one more function process with the environment of `fn`. The test bed stops it. */
  startFunction(bundle = "dispatch", environment: Readonly<Record<string, string>> = {}): FunctionProcess {
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

  /** The environment of a function. `more` overrides it. */
  environmentOf(more: Readonly<Record<string, string>> = {}): Record<string, string> {
    const [proxy] = this.proxies;
    const url = this.#options.isDirect || proxy === undefined ? this.servers.url : proxy.url;
    return { ...this.#environment, VALKEY_URL: url.href, ...this.#options.environment, ...more };
  }

  /** As `deliver`, with a breakpoint set. Returns the breakpoint. */
  async deliverWithBreakpoint(breakpoint: Breakpoint, records: readonly SQSRecord[]): Promise<Breakpoint> {
    this.breakpoint = breakpoint;
    try {
      await this.deliver(records);
      await breakpoint.settled();
    } finally {
      this.breakpoint = undefined;
    }
    return breakpoint;
  }

  /** Invokes a function with a batch and interprets its answer as Lambda does. Acknowledges nothing. */
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

  /** Invokes and then deletes the messages that succeeded, as an event source mapping does. */
  async deliver(records: readonly SQSRecord[], fn = this.fn): Promise<Delivery> {
    const delivery = await this.invoke(records, fn);
    await this.settle(records, delivery);
    return delivery;
  }

  /** Loads the library if it is missing. The workers of the harness need it too. */
  async loadLibrary(): Promise<void> {
    await ensureLibrary(this.valkey);
  }

  /** Everything in Valkey that is inconsistent, as text. No client may be writing meanwhile. */
  async inconsistencies(): Promise<string[]> {
    const findings = await checkConsistency({ valkey: this.valkey }, { settleMs: 0 });
    return findings.map(describeFinding);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#parts.disposeAsync();
  }

  async #prepare(): Promise<void> {
    this.queueProxy.onAccepted = (queueUrl, { MessageAttributes: attributes }) => {
      const isCascade = Number(attributes?.depth?.StringValue ?? 0) > 0;
      if (isCascade && this.#stepOf(queueUrl) === "send") this.cascades += 1;
    };
    this.queueProxy.gate = {
      stopsAt: (queueUrl, timing) => this.breakpoint?.stopsAt(this.#stepOf(queueUrl), timing) ?? false,
      pass: () => this.breakpoint?.hit() ?? Promise.resolve("pass"),
    };
    await this.setMaxReceives(MAX_RECEIVES);
    const { numFlowPartitions } = this.router;
    await this.valkey.call("hset", PARTITION_CONFIG_KEY, "num_flow_partitions", numFlowPartitions);
    await this.loadLibrary();
    if (this.#options.isDirect) return;
    const gate: Gate = {
      stopsAt: (step, timing) => this.breakpoint?.stopsAt(step, timing) ?? false,
      pass: () => this.breakpoint?.hit() ?? Promise.resolve("pass"),
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

  /** Adds a line to the log. */
  note(text: string): void {
    this.log.push(text.trimEnd());
    if (this.log.length > LINES_KEPT) this.log.shift();
  }
}

function proxied(queueUrl: string, endpoint: string): string {
  return new URL(new URL(queueUrl).pathname, endpoint).href;
}
