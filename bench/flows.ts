/** Flows for benchmarks, submitted and run with the SDK. */

import { randomUUID } from "node:crypto";
import { expectEqual } from "#bench/benchmark.ts";
import { FlowStatusCounter } from "#local/flow-status.ts";
import { type Plan, planSubmission } from "#sdk/submission/plan.ts";
import { submitFlow } from "#sdk/submission/submit.ts";
import type { Task, Workflow } from "#sdk/submission/workflow.ts";
import { workBatch } from "#sdk/worker/worker.ts";
import type { Pipelines } from "#shared/contract/command.ts";
import { type FlowId, parseFlowId, parseLaneId, unwrap } from "#shared/contract/ids.ts";
import type { Completion, CompletionEvent } from "#shared/contract/message.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import type { SendResult } from "#shared/queue/batch-sender.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";

export const ROUTER = new PartitionRouter();
const LANE = unwrap(parseLaneId("default"));
const NAMESPACE = "bench";
const IDENTITY = { workerId: "bench", instanceId: "bench-1" };
/** The result of an execution that succeeds. */
const RESULT = JSON.stringify({ rows: "x".repeat(1_000) });

/** A publisher that collects completions. */
export class Outbox implements CompletionPublisher {
  readonly sent: Completion[] = [];

  send(completions: readonly Completion[]): Promise<SendResult[]> {
    this.sent.push(...completions);
    return Promise.resolve(completions.map(() => ({ ok: true })));
  }
}

export interface BenchFlow {
  readonly plan: Plan;
  readonly flowId: FlowId;
}

function task(id: string): Task {
  return { id, lane: LANE, priority: 0, payload: "" };
}

/** Roots, each with an edge to every child. */
export function star(children: number, options: { roots?: number; dataPassing?: boolean } = {}): Workflow {
  const { roots: rootCount = 1, dataPassing = false } = options;
  const roots = Array.from({ length: rootCount }, (_, number) => `root-${number}`);
  const leaves = Array.from({ length: children }, (_, number) => `child-${number}`);
  return {
    name: "star",
    tasks: [...roots, ...leaves].map(task),
    edges: roots.flatMap((from) => leaves.map((to) => ({ from, to, dataPassing }))),
  };
}

/** A tree of a root and its descendants with ten children per node. */
export function tree(descendants: number): Workflow {
  const ids = Array.from({ length: descendants + 1 }, (_, number) => `node-${number}`);
  return {
    name: "tree",
    tasks: ids.map(task),
    edges: ids.slice(1).map((to, position) => ({
      from: ids[Math.floor(position / 10)] ?? "",
      to,
      dataPassing: false,
    })),
  };
}

/** Layers in which every task has four upstreams in the previous layer. */
export function layered(tasks: number): Workflow {
  const width = Math.max(4, Math.round(Math.sqrt(tasks)));
  const ids = Array.from({ length: tasks }, (_, number) => `task-${number}`);
  const edges = ids.slice(width).flatMap((to, position) => {
    const layer = Math.floor(position / width) * width;
    return [0, 1, 2, 3].map((step) => ({
      from: ids[layer + ((position + step) % width)] ?? "",
      to,
      dataPassing: false,
    }));
  });
  return { name: "layered", tasks: ids.map(task), edges };
}

export async function submit(
  valkey: Pipelines,
  workflow: Workflow,
  router: PartitionRouter = ROUTER,
  flowId: FlowId = unwrap(parseFlowId(randomUUID())),
): Promise<BenchFlow> {
  await submitFlow({ valkey, router, completions: new Outbox() }, workflow, { flowId, namespace: NAMESPACE });
  return { flowId, plan: planSubmission(router, workflow, flowId, NAMESPACE) };
}

/** Ends the roots of a flow with a worker. Returns their completions. */
export async function endRoots(
  valkey: Pipelines,
  { plan }: BenchFlow,
  outcome: "success" | "failed",
): Promise<readonly Completion[]> {
  const completions = new Outbox();
  const { partition } = plan.flow;
  const roots = plan.tasks.filter(({ incoming }) => incoming.length === 0).length;
  const worked = await workBatch(
    { valkey, router: ROUTER, completions, identity: IDENTITY },
    { partition, lane: LANE },
    () =>
      Promise.resolve(
        outcome === "success" ? { outcome, result: RESULT } : { outcome, reason: "fails as requested" },
      ),
    { limit: roots },
  );
  expectEqual("roots that ended", worked.length, roots);
  return completions.sent;
}

export function eventOf({ executionId, flowId, depth, root }: Completion): CompletionEvent {
  return { executionId, flowId, depth, generation: 0, root, traceparent: undefined };
}

/** Throws unless all executions with upstreams are in the given state. */
export async function expectChildren(
  valkey: Pipelines,
  flows: readonly BenchFlow[],
  state: "eligible" | "skipped" | "blocked",
): Promise<void> {
  const children = flows.flatMap(({ plan }) => plan.tasks.filter(({ incoming }) => incoming.length > 0));
  const statusCounter = new FlowStatusCounter(
    valkey,
    ROUTER,
    children.map(({ keys }) => keys.id),
  );
  const { ended, ready, blocked } = await statusCounter.take();
  const found = { eligible: ready, skipped: ended.skipped, blocked };
  expectEqual(`children that are ${state}`, found[state], children.length);
}
