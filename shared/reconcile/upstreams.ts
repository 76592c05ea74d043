/** Whom blocked executions wait for, and whether those have ended. */

import { command, type ValkeyCommand, type ValkeyResult } from "#shared/contract/command.ts";
import {
  type EdgeId,
  type ExecutionId,
  type FlowId,
  parseEdgeId,
  parseExecutionId,
  parseFlowId,
} from "#shared/contract/ids.ts";
import { fieldText, isTerminalOutcome, parseTime, type TerminalOutcome } from "#shared/contract/record.ts";
import type { Blocked } from "#shared/reconcile/blocked.ts";
import type { Failures, Run } from "#shared/reconcile/run.ts";
import { chunked } from "#shared/valkey/batches.ts";

/** Commands on their way at once: what is encoded and replied stays bounded, whatever number of edges there is. */
const COMMANDS_AT_ONCE = 10_000;

export type UpstreamState =
  | {
      readonly kind: "ended";
      readonly outcome: TerminalOutcome;
      /** Milliseconds since the epoch; undefined where the record does not say. */
      readonly endedAtMs: number | undefined;
    }
  | { readonly kind: "open" }
  /** Could not be read, or makes no sense. */
  | { readonly kind: "unknown" };

/** An execution of a flow for which some of the blocked ones wait. */
export interface Upstream {
  readonly id: ExecutionId;
  /** The flow that the edges belong to. */
  readonly flowId: FlowId;
  readonly state: UpstreamState;
  readonly waiting: readonly Blocked[];
}

export interface Waiting {
  readonly upstreams: readonly Upstream[];
  /** The blocked executions with an edge that makes no sense, or could not be read. */
  readonly puzzling: ReadonlySet<Blocked>;
}

interface WaitingEdge {
  readonly child: Blocked;
  readonly edge: EdgeId;
}

/** Reads all unresolved edges of the executions, and every upstream of these once: three round trips, or more where it is much. */
export async function readUpstreams(
  run: Run,
  children: readonly Blocked[],
  failures: Failures,
): Promise<Waiting> {
  const puzzling = new Set<Blocked>();
  const edges = await readEdges(run, children, failures, puzzling);
  const found = await readDependencies(run, edges, failures, puzzling);
  const results = await pipelined(run, found, ({ id }) => {
    const { partition, core } = run.ports.router.execKeys(id);
    return command(partition, "hmget", core, ...UPSTREAM_FIELDS);
  });
  const upstreams = found.map((upstream, position): Upstream => {
    const result = results[position];
    if (!result?.ok) for (const { unit } of upstream.waiting) failures.add(unit, result?.error);
    return { ...upstream, state: result?.ok ? stateOf(run, upstream, result.value) : { kind: "unknown" } };
  });
  return { upstreams, puzzling };
}

async function readEdges(
  run: Run,
  children: readonly Blocked[],
  failures: Failures,
  puzzling: Set<Blocked>,
): Promise<WaitingEdge[]> {
  const results = await pipelined(run, children, ({ keys: { partition, depsUnresolved } }) =>
    command(partition, "smembers", depsUnresolved),
  );
  return children.flatMap((child, position): WaitingEdge[] => {
    const result = results[position];
    if (!result?.ok || !Array.isArray(result.value)) {
      failures.add(child.unit, result?.ok === false ? result.error : new Error("SMEMBERS replied no array"));
      puzzling.add(child);
      return [];
    }
    return result.value.flatMap((text: unknown): WaitingEdge[] => {
      const edge = parseEdgeId(text);
      if (edge.ok) return [{ child, edge: edge.value }];
      puzzling.add(child);
      run.unreadable("an unresolved edge has no edge's id", {
        execution_id: child.keys.id,
        reason: edge.error.message,
      });
      return [];
    });
  });
}

type Found = Omit<Upstream, "state" | "waiting"> & { readonly waiting: Blocked[] };

/** The distinct upstreams of the edges, each with those that wait for it. */
async function readDependencies(
  run: Run,
  edges: readonly WaitingEdge[],
  failures: Failures,
  puzzling: Set<Blocked>,
): Promise<Found[]> {
  const results = await pipelined(run, edges, ({ child: { keys }, edge }) =>
    command(keys.partition, "hmget", keys.dep(edge), ...DEPENDENCY_FIELDS),
  );
  const found = new Map<string, Found>();
  for (const [position, { child, edge }] of edges.entries()) {
    const result = results[position];
    if (!result?.ok) {
      failures.add(child.unit, result?.error ?? new Error("no result"));
      puzzling.add(child);
      continue;
    }
    const upstream = upstreamOf(result.value);
    if (typeof upstream === "string") {
      puzzling.add(child);
      run.unreadable("an unresolved edge is left alone", {
        execution_id: child.keys.id,
        edge_id: edge,
        reason: upstream,
      });
      continue;
    }
    const known = found.get(nameOf(upstream));
    if (known === undefined) found.set(nameOf(upstream), { ...upstream, waiting: [child] });
    else if (known.waiting.at(-1) !== child) known.waiting.push(child);
  }
  return [...found.values()];
}

/** Names an upstream within a sweep: a completion event is for an execution and a flow. */
export function nameOf({ id, flowId }: Pick<Upstream, "id" | "flowId">): string {
  return `${id} ${flowId}`;
}

const DEPENDENCY_FIELDS = ["upstream_execution_id", "flow_id", "state"];

/** Whom the edge comes from, or why it cannot be told. */
function upstreamOf(value: unknown): Pick<Upstream, "id" | "flowId"> | string {
  const fields = Array.isArray(value) ? value.map(fieldText) : [];
  const [upstreamText = "", flowText = "", state = ""] = fields;
  if (fields.every((field) => field === "")) return "its dependency record is gone";
  // The set says that it is not resolved, and its record that it is: no completion would change that.
  if (state !== "unsatisfied") return `its dependency record has the state ${JSON.stringify(state)}`;
  const id = parseExecutionId(upstreamText);
  if (!id.ok) return `its upstream_execution_id: ${id.error.message}`;
  const flowId = parseFlowId(flowText);
  if (!flowId.ok) return `its flow_id: ${flowId.error.message}`;
  return { id: id.value, flowId: flowId.value };
}

const UPSTREAM_FIELDS = ["lifecycle_phase", "terminal_outcome", "completed_at", "last_transition_at"];

function stateOf(run: Run, { id, waiting }: Found, value: unknown): UpstreamState {
  const fields = Array.isArray(value) ? value.map(fieldText) : [];
  const [phase = "", outcome = "", completedAt = "", transitionAt = ""] = fields;
  if (phase === "" && outcome === "") {
    // A submitter may create those that wait before those for which they wait.
    if (!waiting.some(({ changedAtMs }) => run.isPastGrace(changedAtMs))) return { kind: "open" };
    run.unreadable("executions wait for one that has no record", {
      execution_id: id,
      waiting: waiting.length,
    });
    return { kind: "unknown" };
  }
  if (phase !== "terminal" || outcome === "" || outcome === "none") return { kind: "open" };
  if (!isTerminalOutcome(outcome)) {
    run.unreadable("an upstream has an outcome that the contract does not know", {
      execution_id: id,
      terminal_outcome: outcome,
    });
    return { kind: "unknown" };
  }
  return { kind: "ended", outcome, endedAtMs: parseTime(completedAt) ?? parseTime(transitionAt) };
}

async function pipelined<T>(
  run: Run,
  items: readonly T[],
  commandOf: (item: T) => ValkeyCommand,
): Promise<ValkeyResult[]> {
  const results: ValkeyResult[] = [];
  for (const chunk of chunked(items, () => 1, COMMANDS_AT_ONCE)) {
    for (const result of await run.ports.valkey.pipelined(chunk.map(commandOf))) results.push(result);
  }
  return results;
}
