/** Reads the edges around executions of flows. */

import type { ExecutionRecord } from "#operate/execution.ts";
import { command, type Pipelines } from "#shared/contract/command.ts";
import { type EdgeId, type ExecutionId, parseEdgeId, parseExecutionId } from "#shared/contract/ids.ts";
import type { FlowKeys } from "#shared/contract/keys.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText } from "#shared/contract/record.ts";
import { readEach } from "#shared/valkey/batches.ts";

export interface EdgePorts {
  readonly valkey: Pipelines;
  readonly router: PartitionRouter;
}

/** An edge to an execution, and what has become of it there. */
export interface IncomingEdge {
  readonly upstream: ExecutionId;
  /** `unsatisfied`, `satisfied` or `impossible`; empty if the edge is not applied. */
  readonly state: string;
}

/** The incoming edges of an execution, and how many of them must succeed. */
export interface Dependencies {
  readonly edges: readonly IncomingEdge[];
  /** Undefined: all of them. */
  readonly quorum: number | undefined;
}

/** The children of each execution, in their order. */
export async function readChildren(
  { valkey, router }: EdgePorts,
  executions: readonly ExecutionRecord[],
): Promise<ExecutionId[][]> {
  const edges = await readEdges({ valkey, router }, executions, (flow, { keys }) => flow.outgoing(keys.id));
  const ends = await readEach(valkey, edges.flat(), ({ flow, id }) =>
    command(flow.partition, "hget", flow.edge(id), "downstream_execution_id"),
  );
  const values = ends.values();
  return edges.map((own) => own.flatMap(() => idOf(values.next().value)));
}

/** The dependencies of each execution, in their order. */
export async function readDependencies(
  { valkey, router }: EdgePorts,
  executions: readonly ExecutionRecord[],
): Promise<Dependencies[]> {
  const edges = await readEdges({ valkey, router }, executions, (flow, { keys }) => flow.incoming(keys.id));
  const owned = executions.flatMap((execution, at) =>
    (edges[at] ?? []).map((edge) => ({ ...edge, execution })),
  );
  const upstreams = await readEach(valkey, owned, ({ flow, id }) =>
    command(flow.partition, "hget", flow.edge(id), "upstream_execution_id"),
  );
  const states = await readEach(valkey, owned, ({ execution: { keys }, id }) =>
    command(keys.partition, "hget", keys.dep(id), "state"),
  );
  const groups = await readEach(valkey, executions, ({ keys, flowId }) =>
    flowId === undefined
      ? command(keys.partition, "time")
      : command(
          keys.partition,
          "hmget",
          router.flowKeys(flowId, keys.partition).edgeGroup(keys.id),
          "policy_variant",
          "k",
        ),
  );
  const read = Map.groupBy(
    owned.map(({ execution }, at) => ({ execution, upstream: upstreams[at], state: fieldText(states[at]) })),
    ({ execution }) => execution,
  );
  return executions.map((execution, at) => ({
    edges: (read.get(execution) ?? []).flatMap(({ upstream, state }) =>
      idOf(upstream).map((id) => ({ upstream: id, state })),
    ),
    quorum: execution.flowId === undefined ? undefined : quorumOf(groups[at]),
  }));
}

interface Edge {
  readonly flow: FlowKeys;
  readonly id: EdgeId;
}

async function readEdges(
  { valkey, router }: EdgePorts,
  executions: readonly ExecutionRecord[],
  keyOf: (flow: FlowKeys, execution: ExecutionRecord) => string,
): Promise<Edge[][]> {
  const members = executions.flatMap((execution) => {
    const { keys, flowId } = execution;
    return flowId === undefined ? [] : [{ execution, flow: router.flowKeys(flowId, keys.partition) }];
  });
  const sets = await readEach(valkey, members, ({ execution, flow }) =>
    command(flow.partition, "smembers", keyOf(flow, execution)),
  );
  const found = new Map(
    members.map(({ execution, flow }, at) => {
      const set = sets[at];
      const edges = (Array.isArray(set) ? set : []).flatMap((text): Edge[] => {
        const id = parseEdgeId(text);
        return id.ok ? [{ flow, id: id.value }] : [];
      });
      return [execution, edges] as const;
    }),
  );
  return executions.map((execution) => found.get(execution) ?? []);
}

function idOf(text: unknown): ExecutionId[] {
  const id = parseExecutionId(text);
  return id.ok ? [id.value] : [];
}

function quorumOf(group: unknown): number | undefined {
  const [variant, k] = Array.isArray(group) ? group.map(fieldText) : [];
  if (variant === "any_of") return 1;
  return variant === "quorum" ? Math.max(1, Number(k) || 1) : undefined;
}
