import { v5 as uuidV5 } from "uuid";
import { topologicalOrder } from "#sdk/submission/graph.ts";
import { edgeKey } from "#sdk/submission/validate-graph.ts";
import type { Task, Workflow } from "#sdk/submission/workflow.ts";
import {
  type ExecutionId,
  type FlowId,
  mintExecutionId,
  type Partition,
  parseEdgeId,
  unwrap,
} from "#shared/contract/ids.ts";
import type { ExecKeys, FlowKeys, IndexKeys } from "#shared/contract/keys.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import type { Edge } from "#shared/contract/submission.ts";
import { SubmissionError } from "#shared/errors.ts";

/** Everything that a submission writes, with all keys and ids. */
export interface Plan {
  readonly flow: FlowKeys;
  readonly index: IndexKeys;
  readonly namespace: string;
  readonly router: PartitionRouter;
  /** In topological order. */
  readonly tasks: readonly PlannedTask[];
  readonly edgeCount: number;
}

export interface PlannedTask {
  readonly task: Task;
  readonly keys: ExecKeys;
  readonly incoming: readonly Edge[];
  readonly outgoing: readonly { readonly edge: Edge; readonly child: ExecKeys }[];
}

/** The data passing reference of an edge. Any non-empty text turns data passing on. */
const RESULT = "result";

/**
 * Plans a submission. Ids are UUIDs of version 5 in the namespace of the flow id, so every submission of the same
 * workflow with the same flow id has the same executions and edges.
 *
 * @throws SubmissionError if the workflow has a cycle or an edge to an unknown task. `parseWorkflow` never returns
 * such a workflow.
 */
export function planSubmission(
  router: PartitionRouter,
  workflow: Workflow,
  flowId: FlowId,
  namespace: string,
): Plan {
  const order = topologicalOrder(workflow);
  if (order === undefined) {
    throw new SubmissionError("the workflow has a cycle; nothing was written", { retryable: false });
  }
  const flow = router.flowKeys(flowId);
  const uuidNamespace = namespaceOf(flowId);
  const planned = new Map(
    workflow.tasks.map((task) => {
      const id = executionIdOf(flow, task.id);
      const incoming: Edge[] = [];
      const outgoing: { edge: Edge; child: ExecKeys }[] = [];
      return [task.id, { task, keys: router.execKeys(id), incoming, outgoing }] as const;
    }),
  );
  for (const { from, to, dataPassing } of workflow.edges) {
    const upstream = planned.get(from);
    const downstream = planned.get(to);
    if (upstream === undefined || downstream === undefined) {
      throw new SubmissionError(`the edge from ${from} to ${to} names an unknown task; nothing was written`, {
        retryable: false,
      });
    }
    const edge: Edge = {
      id: unwrap(parseEdgeId(uuidV5(`edge:${edgeKey(from, to)}`, uuidNamespace))),
      upstream: upstream.keys.id,
      downstream: downstream.keys.id,
      dataPassingRef: dataPassing ? RESULT : "",
    };
    upstream.outgoing.push({ edge, child: downstream.keys });
    downstream.incoming.push(edge);
  }
  return {
    router,
    flow,
    index: router.indexKeys(flow.partition),
    namespace,
    tasks: order.flatMap((id) => planned.get(id) ?? []),
    edgeCount: workflow.edges.length,
  };
}

/** The id of the execution that a submission creates for a task. */
export function executionIdOf(
  { partition, id }: { readonly partition: Partition; readonly id: FlowId },
  task: string,
): ExecutionId {
  return unwrap(mintExecutionId(partition, uuidV5(`task:${task}`, namespaceOf(id))));
}

/** The bytes: the uuid package accepts only known UUID versions as text, and a flow id can be any UUID. */
function namespaceOf(flowId: FlowId): Buffer {
  return Buffer.from(flowId.replaceAll("-", ""), "hex");
}
