/** Follows the edges of flows to all descendants of executions. */

import { type ExecutionRecord, readExecutions } from "#operate/execution.ts";
import { type EdgePorts, readChildren } from "#operate/write/replay/edges.ts";
import { topologicalOrder } from "#sdk/submission/graph.ts";
import { command } from "#shared/contract/command.ts";
import { type ExecutionId, parseExecutionId } from "#shared/contract/ids.ts";
import { readEach } from "#shared/valkey/batches.ts";

export type Nodes = Map<ExecutionId, ExecutionRecord>;

/** Members of a flow that is not read as a whole. */
const LARGE_FLOW = 10_000;

/**
 * Adds all descendants, whatever their state: one that was replayed before may have skipped descendants. Returns the length of
 * the longest path to each node.
 */
export async function addDescendants(ports: EdgePorts, nodes: Nodes): Promise<Map<ExecutionId, number>> {
  const members = await readSmallFlows(ports, [...nodes.values()]);
  const childrenOf = new Map<ExecutionId, readonly ExecutionId[]>();
  let found = [...nodes.values()];
  while (found.length > 0) {
    const unread = found.filter(({ keys }) => !members.has(keys.id));
    for (const [at, children] of (await readChildren(ports, unread)).entries()) {
      const execution = unread[at];
      if (execution !== undefined) members.set(execution.keys.id, { execution, children });
    }
    const children = found.flatMap(({ keys }) => {
      const own = members.get(keys.id)?.children ?? [];
      childrenOf.set(keys.id, own);
      return own;
    });
    const fresh = [...new Set(children)].filter((id) => !nodes.has(id));
    const unknown = fresh.filter((id) => !members.has(id));
    const read = await readExecutions(ports, unknown);
    found = [...fresh.map((id) => members.get(id)?.execution), ...read].filter((one) => one !== undefined);
    for (const execution of found) nodes.set(execution.keys.id, execution);
  }
  return levelsOf(childrenOf);
}

function levelsOf(childrenOf: ReadonlyMap<ExecutionId, readonly ExecutionId[]>): Map<ExecutionId, number> {
  const children = new Map<string, readonly ExecutionId[]>(childrenOf);
  const order = topologicalOrder({
    tasks: [...children.keys()].map((id) => ({ id })),
    edges: [...children].flatMap(([from, own]) => own.map((to) => ({ from, to }))),
  });
  const levels = new Map<ExecutionId, number>();
  const levelOf = (id: string): number => levels.get(id as ExecutionId) ?? 0;
  for (const id of order ?? []) {
    for (const child of children.get(id) ?? []) {
      levels.set(child, Math.max(levelOf(child), levelOf(id) + 1));
    }
  }
  return levels;
}

interface Member {
  readonly execution: ExecutionRecord;
  readonly children: readonly ExecutionId[];
}

/**
 * All members of the executions' flows, except of large ones. To read a flow as a whole takes a few round trips. To follow its
 * edges takes some for each level, and so seconds for a long chain.
 */
async function readSmallFlows(
  { valkey, router }: EdgePorts,
  executions: readonly ExecutionRecord[],
): Promise<Map<ExecutionId, Member>> {
  const flows = new Map(
    executions.flatMap(({ keys, flowId }) =>
      flowId === undefined ? [] : [[flowId, router.flowKeys(flowId, keys.partition)] as const],
    ),
  );
  const counts = await readEach(valkey, [...flows.values()], ({ partition, members }) =>
    command(partition, "scard", members),
  );
  const small = [...flows.values()].filter((_, at) => Number(counts[at]) <= LARGE_FLOW);
  const ids = await readEach(valkey, small, ({ partition, members }) =>
    command(partition, "smembers", members),
  );
  const parsed = ids.flatMap((list) => (Array.isArray(list) ? list : [])).map(parseExecutionId);
  const records = await readExecutions(
    { valkey, router },
    parsed.flatMap((id) => (id.ok ? [id.value] : [])),
  );
  const found = records.filter((one) => one !== undefined);
  const children = await readChildren({ valkey, router }, found);
  return new Map(
    found.map((execution, at) => [execution.keys.id, { execution, children: children[at] ?? [] }]),
  );
}
