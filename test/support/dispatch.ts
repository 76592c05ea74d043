/** A dispatcher on a real Valkey and a real queue protocol, and what a test wants to see of both. */

import {
  DeleteMessageBatchCommand,
  type Message,
  ReceiveMessageCommand,
  type SQSClient,
} from "@aws-sdk/client-sqs";
import { recordOf } from "#local/event.ts";
import { type LocalQueue, startQueue } from "#local/queue.ts";
import { type DispatcherPorts, dispatch } from "#shared/dispatch/dispatcher.ts";
import type { SluiceError } from "#shared/errors.ts";
import type { ExecutionId, FlowId } from "#shared/ids.ts";
import type { ExecKeys } from "#shared/keys.ts";
import { DEFAULT_PARTITION_CONFIG, PartitionRouter } from "#shared/partitions.ts";
import { type CompletionEvent, parseCompletionEvent } from "#shared/queue/message.ts";
import { SqsCompletionSink } from "#shared/queue/publisher.ts";
import type { LogFields, MetricName, Telemetry } from "#shared/telemetry.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import type { Scene } from "#test/support/scene.ts";

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

  /** Takes every message off the queue. */
  async drain(): Promise<Message[]> {
    const QueueUrl = this.queue.queueUrl;
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
export const ROUTER = new PartitionRouter({ ...DEFAULT_PARTITION_CONFIG, numFlowPartitions: 65_536 });

export function portsOf(
  valkey: Valkey,
  queue: QueueProbe,
  overrides: Partial<DispatcherPorts> = {},
): DispatcherPorts & { readonly telemetry: RecordedTelemetry } {
  return {
    valkey,
    router: ROUTER,
    sink: new SqsCompletionSink(queue.client, queue.queue.queueUrl),
    edition: 11,
    maxCascadeDepth: 50,
    ensureLibrary: async () => {
      await ensureLibrary(valkey);
    },
    now: Date.now,
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

/** Dispatches one event; its faults. */
export async function dispatchOne(
  ports: DispatcherPorts,
  event: CompletionEvent,
): Promise<readonly SluiceError[]> {
  const [faults = []] = await dispatch(ports, [event]);
  return faults;
}

export async function stateOf(scene: Scene, keys: ExecKeys): Promise<string> {
  return String(await scene.read("hget", keys.core, "public_state"));
}

/** A completed execution with one child for each given state, all edges staged and applied. */
export async function family(
  scene: Scene,
  children: number,
  dataPassingRef = "",
): Promise<{ parent: ExecKeys; children: ExecKeys[]; edges: Awaited<ReturnType<Scene["edge"]>>[] }> {
  const parent = await scene.member();
  const members: ExecKeys[] = [];
  const edges: Awaited<ReturnType<Scene["edge"]>>[] = [];
  for (let index = 0; index < children; index += 1) {
    const child = await scene.member();
    edges.push(await scene.edge(parent, child, dataPassingRef));
    members.push(child);
  }
  return { parent, children: members, edges };
}
