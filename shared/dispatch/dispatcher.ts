/**
 * The dispatcher: deals with the children of completed executions, in four round trips for a whole batch of
 * messages, and a fifth where something was skipped. Section 9 of the contract lists what it must not do.
 */

import type { TerminalOutcome } from "#shared/contract/record.ts";
import { publishCascades } from "#shared/dispatch/cascade.ts";
import { readChildren, reportUnreadable } from "#shared/dispatch/children.ts";
import { type FanOut, resolveChildren } from "#shared/dispatch/fan-out.ts";
import { type EdgeSet, readRecords } from "#shared/dispatch/records.ts";
import type { EdgeWork, Work } from "#shared/dispatch/work.ts";
import type { SluiceError } from "#shared/errors.ts";
import { parseEdgeId } from "#shared/ids.ts";
import { IndexKeys } from "#shared/keys.ts";
import type { PartitionRouter } from "#shared/partitions.ts";
import type { CompletionSink } from "#shared/queue/completion.ts";
import type { CompletionEvent } from "#shared/queue/message.ts";
import { METRICS } from "#shared/telemetry.ts";

/**
 * Edges that are read and resolved together. Up to here a batch takes four round trips; beyond, the next
 * edges are read while these are resolved, and memory stays bounded.
 */
const WINDOW = 2_048;

export interface DispatcherPorts extends FanOut {
  readonly router: PartitionRouter;
  readonly sink: CompletionSink;
  readonly maxCascadeDepth: number;
}

/**
 * Dispatches a batch. For each event, in order, the faults for which its message must come again; none: the
 * message is done. Never rejects for one event's sake.
 */
export async function dispatch(
  ports: DispatcherPorts,
  events: readonly CompletionEvent[],
): Promise<(readonly SluiceError[])[]> {
  const works = new Map<string, Work>();
  const workOf = events.map((event) => admit(ports, works, event));
  const edges = await readEdges(ports, [...works.values()]);
  let resolving: Promise<void> = Promise.resolve();
  for (let start = 0; start < edges.length; start += WINDOW) {
    const window = edges.slice(start, start + WINDOW);
    const [children] = await Promise.all([readChildren(ports.valkey, ports.telemetry, window), resolving]);
    resolving = resolveChildren(ports, children).then((cascades) => publishCascades(ports, cascades));
  }
  await resolving;
  return workOf.map((work) => work?.faults ?? []);
}

/** The gates that need no record. Events for the same execution in one batch are one work. */
function admit(ports: DispatcherPorts, works: Map<string, Work>, event: CompletionEvent): Work | undefined {
  const { executionId, flowId, depth, root, traceparent } = event;
  if (flowId === undefined) return undefined;
  if (depth > ports.maxCascadeDepth) {
    ports.telemetry.count(METRICS.depthLimitReached);
    ports.telemetry.warn("the cascade is deeper than MAX_CASCADE_DEPTH: its rest is left to the reconciler", {
      execution_id: executionId,
      flow_id: flowId,
      root,
      depth,
    });
    return undefined;
  }
  const key = `${executionId} ${flowId}`;
  const known = works.get(key);
  if (known !== undefined) {
    known.depth = Math.min(known.depth, depth);
    return known;
  }
  const work: Work = { executionId, flowId, depth, root, traceparent, faults: [] };
  works.set(key, work);
  return work;
}

/** Round trip 1 and the gates that need the record: the edges to resolve. */
async function readEdges(ports: DispatcherPorts, works: readonly Work[]): Promise<EdgeWork[]> {
  const states = await readRecords(ports.valkey, ports.router, works);
  const edges: EdgeWork[] = [];
  for (const [position, work] of works.entries()) {
    const state = states[position];
    if (state?.kind === "fault") work.faults.push(state.error);
    if (state?.kind === "ended")
      for (const set of state.edges) addEdges(ports, edges, work, state.outcome, set);
    if (state?.kind === "not_ended") {
      ports.telemetry.count(METRICS.recordNotTerminal);
      ports.telemetry.warn("the execution has not ended, or was replayed: nothing is resolved", {
        execution_id: work.executionId,
        flow_id: work.flowId,
        lifecycle_phase: state.phase,
        terminal_outcome: state.outcome,
      });
    }
  }
  return edges;
}

function addEdges(
  ports: DispatcherPorts,
  edges: EdgeWork[],
  work: Work,
  outcome: TerminalOutcome,
  { flow, ids }: EdgeSet,
): void {
  const flowIndex = new IndexKeys(flow.partition);
  for (const id of ids) {
    const edge = parseEdgeId(id);
    if (edge.ok) edges.push({ work, outcome, edge: edge.value, flow, flowIndex });
    else reportUnreadable(ports.telemetry, { work, edge: id }, edge.error.message);
  }
}
