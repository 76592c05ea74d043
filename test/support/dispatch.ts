/** A dispatcher on a real Valkey and a real queue protocol, and helpers to observe both. */

import type { Message, SQSClient } from "@aws-sdk/client-sqs";
import { afterAll, beforeAll, beforeEach } from "vitest";
import { recordOf } from "#local/event.ts";
import { type LocalQueue, startQueue } from "#local/queue.ts";
import { startValkey, startValkeyCluster, type ValkeyServer } from "#local/valkey-server.ts";
import { command, type ValkeyCommand } from "#shared/contract/command.ts";
import type { Edition } from "#shared/contract/edition.ts";
import type { ExecutionId, FlowId } from "#shared/contract/ids.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { type CompletionEvent, parseCompletionEvent } from "#shared/contract/message.ts";
import { type DispatcherPorts, dispatch } from "#shared/dispatch/dispatcher.ts";
import type { SluiceError } from "#shared/errors.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import type { LogFields, MetricName, Telemetry } from "#shared/runtime/telemetry.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { drainQueue } from "#test/support/drain.ts";
import { FlowFixture, ROUTER } from "#test/support/flow-fixture.ts";
import { connectTo, type Deployment, onEveryPrimary } from "#test/support/valkey.ts";

/** Records metrics, warnings and errors. */
export class RecordedTelemetry implements Telemetry {
  readonly counts = new Map<MetricName, number>();
  readonly warnings: { readonly message: string; readonly fields: LogFields }[] = [];

  count(metric: MetricName, value = 1): void {
    this.counts.set(metric, (this.counts.get(metric) ?? 0) + value);
  }
  info(): void {
    // No test reads it.
  }
  warn(message: string, fields: LogFields): void {
    this.warnings.push({ message, fields });
  }
  error(message: string, fields: LogFields): void {
    this.warnings.push({ message, fields });
  }
}

/** A queue emulator with one client. */
export class QueueProbe implements AsyncDisposable {
  readonly queue: LocalQueue;
  readonly client: SQSClient;

  private constructor(queue: LocalQueue) {
    this.queue = queue;
    this.client = queue.client();
  }

  static async start(): Promise<QueueProbe> {
    return new QueueProbe(await startQueue({ visibilityTimeoutSeconds: 60 }));
  }

  /** Receives and deletes every message of a queue; the completions queue by default. */
  drain(queueUrl = this.queue.queueUrl): Promise<Message[]> {
    return drainQueue(this.client, queueUrl);
  }

  /** As `drain`, with the messages parsed as the dispatch function parses them. */
  async drainEvents(): Promise<CompletionEvent[]> {
    return (await this.drain()).map((message) => {
      const parsed = parseCompletionEvent(recordOf(message, { queueArn: "arn", region: "us-east-1" }));
      if (!parsed.ok) throw parsed.error;
      return parsed.value;
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.client.destroy();
    await this.queue.stop();
  }
}

/**
 * What every dispatch test starts from: a connection, a queue, and flows in partitions that no other test uses.
 * Each test finds the queue empty.
 */
export class DispatchSetup {
  readonly #connect: () => Promise<Valkey>;
  readonly #edition: Edition;
  #valkey: Valkey | undefined;
  #queue: QueueProbe | undefined;

  constructor(connect: () => Promise<Valkey>, edition: Edition) {
    this.#connect = connect;
    this.#edition = edition;
  }

  get valkey(): Valkey {
    if (this.#valkey === undefined) throw new Error("the setup is not started");
    return this.#valkey;
  }

  get queue(): QueueProbe {
    if (this.#queue === undefined) throw new Error("the setup is not started");
    return this.#queue;
  }

  /** A new flow. */
  flow(edition: Edition = this.#edition): FlowFixture {
    return new FlowFixture(this.valkey, undefined, undefined, edition);
  }

  ports(overrides: Partial<DispatcherPorts> = {}): ReturnType<typeof portsOf> {
    return portsOf(this.valkey, this.queue, overrides);
  }

  /** Removes the library from every primary. Only for servers that no other test file uses. */
  async flushLibrary(): Promise<void> {
    await onEveryPrimary(this.valkey, "function", "FLUSH", "SYNC");
  }

  async start(): Promise<void> {
    this.#valkey = await this.#connect();
    this.#queue = await QueueProbe.start();
  }

  async stop(): Promise<void> {
    this.#valkey?.close();
    await this.#queue?.[Symbol.asyncDispose]();
  }
}

/** Within a `describe`: the setup for its tests, on a server that all test files share. */
export function dispatchSetup({ connect, edition }: Deployment): DispatchSetup {
  return started(new DispatchSetup(() => Promise.resolve(connect()), edition));
}

/** As `dispatchSetup`, on a server or cluster that only these tests use. It has no library at first. */
export function dispatchSetupOnOwnServer(kind: Deployment["name"], edition: Edition): DispatchSetup {
  let server: ValkeyServer | undefined;
  const connect = async (): Promise<Valkey> => {
    server = await (kind === "cluster" ? startValkeyCluster() : startValkey());
    return connectTo({ url: server.url, cluster: kind === "cluster" });
  };
  // Hooks after a suite run in reverse order: the connection is closed before the server stops.
  afterAll(() => server?.stop());
  return started(new DispatchSetup(connect, edition));
}

function started(setup: DispatchSetup): DispatchSetup {
  beforeAll(() => setup.start());
  beforeEach(async () => {
    await setup.queue.drain();
  });
  afterAll(() => setup.stop());
  return setup;
}

export function portsOf(
  valkey: Valkey,
  queue: QueueProbe,
  overrides: Partial<DispatcherPorts> = {},
): DispatcherPorts & { readonly telemetry: RecordedTelemetry } {
  return {
    valkey,
    router: ROUTER,
    publisher: new SqsCompletionPublisher(queue.client, queue.queue.queueUrl),
    maxCascadeDepth: 50,
    ensureLibrary: async () => {
      await ensureLibrary(valkey);
    },
    now: Date.now,
    deadlineMs: Number.POSITIVE_INFINITY,
    ...overrides,
    telemetry: new RecordedTelemetry(),
  };
}

export function eventOf(
  execution: ExecutionId,
  flowId: FlowId | undefined,
  overrides: Partial<CompletionEvent> = {},
): CompletionEvent {
  return {
    executionId: execution,
    flowId,
    depth: 0,
    generation: 0,
    root: execution,
    traceparent: undefined,
    ...overrides,
  };
}

/** Dispatches a batch. Returns the errors of each event, in order; none when it was dispatched or stopped by a gate. */
export async function dispatchAll(
  ports: DispatcherPorts,
  events: readonly CompletionEvent[],
): Promise<(readonly SluiceError[])[]> {
  return (await dispatch(ports, events)).map((result) => (result.kind === "failed" ? result.errors : []));
}

/** Dispatches one event. Returns its errors. */
export async function dispatchOne(
  ports: DispatcherPorts,
  event: CompletionEvent,
): Promise<readonly SluiceError[]> {
  const [errors] = await dispatchAll(ports, [event]);
  if (errors === undefined) throw new Error("the dispatcher returned no result");
  return errors;
}

export async function stateOf(fixture: FlowFixture, keys: ExecKeys): Promise<string> {
  return String(await fixture.read("hget", keys.core, "public_state"));
}

/** An execution with some children, all edges staged and applied. */
export async function family(
  fixture: FlowFixture,
  children: number,
  dataPassingRef = "",
): Promise<{ parent: ExecKeys; children: ExecKeys[]; edges: Awaited<ReturnType<FlowFixture["edge"]>>[] }> {
  const parent = await fixture.member();
  const members: ExecKeys[] = [];
  const edges: Awaited<ReturnType<FlowFixture["edge"]>>[] = [];
  for (let index = 0; index < children; index += 1) {
    const child = await fixture.member();
    edges.push(await fixture.edge(parent, child, dataPassingRef));
    members.push(child);
  }
  return { parent, children: members, edges };
}

/**
 * An execution with thousands of children. Writes the keys directly, as staging and applying leave them: calling the
 * library functions would take longer than the test itself.
 */
export async function bulkFamily(
  fixture: FlowFixture,
  count: number,
): Promise<{ parent: ExecKeys; children: ExecKeys[] }> {
  const parent = await fixture.member();
  const { partition } = fixture.flow;
  const children: ExecKeys[] = [];
  const write = (name: string, key: string, ...args: string[]): ValkeyCommand =>
    command(partition, name, key, ...args);
  for (let start = 0; start < count; start += BULK) {
    const commands: ValkeyCommand[] = [];
    for (let index = start; index < Math.min(start + BULK, count); index += 1) {
      const child = fixture.newExecution();
      const edge = fixture.newEdge(parent, child);
      children.push(child);
      commands.push(
        write("sadd", fixture.flow.outgoing(parent.id), edge.id),
        write("hset", fixture.flow.edge(edge.id), "downstream_execution_id", child.id),
        write("hset", child.core, "execution_id", child.id, "lane_id", fixture.lane, ...BLOCKED_RECORD),
        write("hset", child.depsMeta, "unsatisfied_required_count", "1", "impossible_required_count", "0"),
        write("sadd", child.depsUnresolved, edge.id),
        write("hset", child.dep(edge.id), "state", "unsatisfied"),
      );
    }
    const failure = (await fixture.valkey.pipelined(commands)).find((result) => !result.ok);
    if (failure && !failure.ok) throw failure.error;
  }
  return { parent, children };
}

const BULK = 1_000;
const BLOCKED_RECORD = Object.entries({
  lifecycle_phase: "runnable",
  ownership_state: "unowned",
  eligibility_state: "blocked_by_dependencies",
  terminal_outcome: "none",
  attempt_state: "pending_first_attempt",
  created_at: "1000",
  priority: "0",
}).flat();
