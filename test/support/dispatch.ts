/** A dispatcher on a real Valkey and a real queue protocol, and what a test wants to see of both. */

import {
  DeleteMessageBatchCommand,
  type Message,
  ReceiveMessageCommand,
  type SQSClient,
} from "@aws-sdk/client-sqs";
import { recordOf } from "#local/event.ts";
import { type LocalQueue, startQueue } from "#local/queue.ts";
import { command, type ValkeyCommand } from "#shared/contract/command.ts";
import type { ExecutionId, FlowId } from "#shared/contract/ids.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { type CompletionEvent, parseCompletionEvent } from "#shared/contract/message.ts";
import { DEFAULT_PARTITION_CONFIG, PartitionRouter } from "#shared/contract/partitions.ts";
import { type DispatcherPorts, dispatch } from "#shared/dispatch/dispatcher.ts";
import type { SluiceError } from "#shared/errors.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import type { LogFields, MetricName, Telemetry } from "#shared/runtime/telemetry.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import type { FlowFixture } from "#test/support/flow-fixture.ts";

/** Keeps what an operator would be told. */
export class RecordedTelemetry implements Telemetry {
  readonly counts = new Map<MetricName, number>();
  readonly warnings: { readonly message: string; readonly fields: LogFields }[] = [];

  count(metric: MetricName, value = 1): void {
    this.counts.set(metric, (this.counts.get(metric) ?? 0) + value);
  }
  info(): void {
    // Nothing that a test asks for.
  }
  warn(message: string, fields: LogFields): void {
    this.warnings.push({ message, fields });
  }
  error(message: string, fields: LogFields): void {
    this.warnings.push({ message, fields });
  }
}

/** A queue with one client, for the tests of one file. */
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

  /** Takes every message off a queue, the completions queue unless another is named. */
  async drain(QueueUrl = this.queue.queueUrl): Promise<Message[]> {
    const messages: Message[] = [];
    for (;;) {
      const { Messages: batch = [] } = await this.client.send(
        new ReceiveMessageCommand({
          QueueUrl,
          MaxNumberOfMessages: 10,
          MessageAttributeNames: ["All"],
          MessageSystemAttributeNames: ["All"],
        }),
      );
      if (batch.length === 0) return messages;
      messages.push(...batch);
      await this.client.send(
        new DeleteMessageBatchCommand({
          QueueUrl,
          Entries: batch.map(({ ReceiptHandle }, index) => ({ Id: String(index), ReceiptHandle })),
        }),
      );
    }
  }

  /** As `drain`, read as the dispatch function reads them. */
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

/** The partition count of the test scenes. */
const ROUTER = new PartitionRouter({ ...DEFAULT_PARTITION_CONFIG, numFlowPartitions: 65_536 });

export function portsOf(
  valkey: Valkey,
  queue: QueueProbe,
  overrides: Partial<DispatcherPorts> = {},
): DispatcherPorts & { readonly telemetry: RecordedTelemetry } {
  return {
    valkey,
    router: ROUTER,
    publisher: new SqsCompletionPublisher(queue.client, queue.queue.queueUrl),
    edition: 11,
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
  return { executionId: execution, flowId, depth: 0, root: execution, traceparent: undefined, ...overrides };
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

/** A completed execution with one child for each given state, all edges staged and applied. */
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
 * An execution with very many children, written as staging and applying leave them: with the functions
 * themselves a test would take longer to set the fixture than to play it.
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
