import { v5 as uuidV5 } from "uuid";
import { topologicalOrder } from "#sdk/submission/graph.ts";
import { edgeKey } from "#sdk/submission/validate-graph.ts";
import type { Task, Workflow } from "#sdk/submission/workflow.ts";
import type { Edition } from "#shared/contract/edition.ts";
import { type FlowId, mintExecutionId, parseEdgeId, unwrap } from "#shared/contract/ids.ts";
import type { ExecKeys, FlowKeys, IndexKeys } from "#shared/contract/keys.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import type { Edge } from "#shared/contract/submission.ts";
import { SubmissionError } from "#shared/errors.ts";

/** Everything that a submission will write, before it writes anything. */
export interface Plan {
  readonly flow: FlowKeys;
  readonly index: IndexKeys;
  readonly namespace: string;
  /** Which edition of the library it is written for. */
  readonly edition: Edition;
  /** Each task behind its upstreams. */
  readonly router: PartitionRouter;
  readonly tasks: readonly PlannedTask[];
  readonly edgeCount: number;
}

export interface PlannedTask {
  readonly task: Task;
  readonly keys: ExecKeys;
  readonly incoming: readonly Edge[];
  readonly outgoing: readonly { readonly edge: Edge; readonly child: ExecKeys }[];
}

/** The reference that an edge with data passing carries; that it is not empty is what counts. */
const RESULT = "result";

/**
 * Plans a submission. Ids are UUIDs of version 5 in the flow id's namespace, so that every submission of
 * the same workflow under the same flow id speaks of the same executions and edges. Throws a
 * SubmissionError for a workflow whose graph is none: `parseWorkflow` returns no such workflow.
 */
export function planSubmission(
  router: PartitionRouter,
  workflow: Workflow,
  flowId: FlowId,
  namespace: string,
  edition: Edition = 11,
): Plan {
  const order = topologicalOrder(workflow);
  if (order === undefined) {
    throw new SubmissionError("the workflow has a cycle; nothing was written", { retryable: false });
  }
  const flow = router.flowKeys(flowId);
  // As bytes: the package takes only UUIDs of known versions as text, and a flow id is any UUID.
  const uuidNamespace = Buffer.from(flowId.replaceAll("-", ""), "hex");
  const planned = new Map(
    workflow.tasks.map((task) => {
      const id = unwrap(mintExecutionId(flow.partition, uuidV5(`task:${task.id}`, uuidNamespace)));
      const incoming: Edge[] = [];
      const outgoing: { edge: Edge; child: ExecKeys }[] = [];
      return [task.id, { task, keys: router.execKeys(id), incoming, outgoing }] as const;
    }),
  );
  for (const { from, to, dataPassing } of workflow.edges) {
    const upstream = planned.get(from);
    const downstream = planned.get(to);
    if (upstream === undefined || downstream === undefined) {
      throw new SubmissionError(`the edge from ${from} to ${to} has an unknown end; nothing was written`, {
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
    edition,
    tasks: order.flatMap((id) => planned.get(id) ?? []),
    edgeCount: workflow.edges.length,
  };
}
