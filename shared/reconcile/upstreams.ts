/** Reads the upstreams that blocked executions wait for, and whether these have ended. */

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
import { isRecordError, ProtocolError } from "#shared/errors.ts";
import { pipelineEach } from "#shared/reconcile/outcome.ts";
import type { BlockedExecution } from "#shared/reconcile/read-blocked.ts";
import type { TaskRun, Unreadable } from "#shared/reconcile/run.ts";
import { chunked } from "#shared/valkey/batches.ts";

/** Limits the memory for encoded commands and their replies, whatever the number of edges. */
const COMMANDS_PER_PIPELINE = 10_000;

export type UpstreamState =
  | {
      readonly kind: "ended";
      readonly outcome: TerminalOutcome;
      /** The time at which it ended, as its record has it. Empty if the record has no time. */
      readonly end: string;
      /** Milliseconds since the epoch; undefined if the record has no time. */
      readonly endedAtMs: number | undefined;
    }
  | { readonly kind: "not_ended" }
  /** The record is missing or invalid. It was reported, and there is nothing to retry. */
  | { readonly kind: "invalid" }
  | { readonly kind: "failed"; readonly error: Error };

/** An upstream execution, in the flow that its edges belong to. */
export interface Upstream {
  readonly id: ExecutionId;
  readonly flowId: FlowId;
  readonly state: UpstreamState;
}

/** What one blocked execution waits for. */
export interface ExecutionUpstreams {
  /** Distinct. Executions that wait for the same upstream share its object. */
  readonly upstreams: readonly Upstream[];
  /** Invalid edges, unless they changed between two reads. They are not reported yet. There is nothing to retry. */
  readonly problems: readonly Unreadable[];
  /** The first error, if an edge could not be read. */
  readonly error: Error | undefined;
}

type UpstreamId = Pick<Upstream, "id" | "flowId">;

type EdgesRead =
  | {
      readonly kind: "read";
      readonly edges: readonly EdgeId[];
      readonly problems: readonly Unreadable[];
    }
  | { readonly kind: "failed"; readonly error: Error };

interface Edge {
  readonly execution: BlockedExecution;
  readonly id: EdgeId;
}

type DependencyRead =
  | { readonly kind: "upstream"; readonly upstream: UpstreamId }
  | { readonly kind: "invalid"; readonly problem: Unreadable }
  | { readonly kind: "failed"; readonly error: Error };

/**
 * Reads all unresolved edges of the executions, and each of their upstreams once. Returns one result per execution, in
 * their order. Takes three round trips, or more for more than 10,000 commands.
 */
export async function readUpstreams(
  run: TaskRun,
  executions: readonly BlockedExecution[],
): Promise<ExecutionUpstreams[]> {
  const edgesRead = await readEdges(run, executions);
  const dependencies = await readDependencies(
    run,
    edgesRead.flatMap(({ execution, read }) =>
      read.kind === "read" ? read.edges.map((id) => ({ execution, id })) : [],
    ),
  );
  const upstreams = await readStates(run, dependencies);
  const dependenciesOf = Map.groupBy(dependencies, ({ edge }) => edge.execution);
  return edgesRead.map(({ execution, read }) => {
    const own = (dependenciesOf.get(execution) ?? []).map((dependency) => dependency.read);
    const failure = read.kind === "failed" ? read : own.find((dependency) => dependency.kind === "failed");
    const keys = new Set(
      own.flatMap((dependency) => (dependency.kind === "upstream" ? [upstreamKey(dependency.upstream)] : [])),
    );
    return {
      upstreams: [...keys].flatMap((key) => upstreams.get(key) ?? []),
      problems: [
        ...(read.kind === "read" ? read.problems : []),
        ...own.flatMap((dependency) => (dependency.kind === "invalid" ? [dependency.problem] : [])),
      ],
      error: failure?.error,
    };
  });
}

/** Identifies an upstream within a sweep: a completion is for one execution and one flow. */
export function upstreamKey({ id, flowId }: UpstreamId): string {
  return `${id} ${flowId}`;
}

/** Returns the unresolved edges of each execution. */
async function readEdges(
  run: TaskRun,
  executions: readonly BlockedExecution[],
): Promise<{ readonly execution: BlockedExecution; readonly read: EdgesRead }[]> {
  const results = await runForEach(run, executions, ({ keys: { partition, depsUnresolved } }) =>
    command(partition, "smembers", depsUnresolved),
  );
  return results.map(({ item: execution, result }) => ({
    execution,
    read: parseEdges(execution, result),
  }));
}

function parseEdges({ keys }: BlockedExecution, result: ValkeyResult): EdgesRead {
  if (!result.ok) {
    if (!isRecordError(result.error)) return { kind: "failed", error: result.error };
    const fields = { execution_id: keys.id, reason: result.error.message };
    return { kind: "read", edges: [], problems: [{ message: "unresolved edges cannot be read", fields }] };
  }
  if (!Array.isArray(result.value)) {
    return { kind: "failed", error: new ProtocolError("SMEMBERS did not reply with an array") };
  }
  const parsed = result.value.map(parseEdgeId);
  return {
    kind: "read",
    edges: parsed.flatMap((edge) => (edge.ok ? [edge.value] : [])),
    problems: parsed.flatMap((edge) =>
      edge.ok
        ? []
        : [
            {
              message: "unresolved edge skipped: invalid edge id",
              fields: { execution_id: keys.id, reason: edge.error.message },
            },
          ],
    ),
  };
}

const DEPENDENCY_FIELDS = ["upstream_execution_id", "flow_id", "state"];

/** Reads the upstream of each edge. */
async function readDependencies(
  run: TaskRun,
  edges: readonly Edge[],
): Promise<{ readonly edge: Edge; readonly read: DependencyRead }[]> {
  const results = await runForEach(run, edges, ({ execution: { keys }, id }) =>
    command(keys.partition, "hmget", keys.dep(id), ...DEPENDENCY_FIELDS),
  );
  return results.map(({ item: edge, result }) => ({ edge, read: parseDependency(edge, result) }));
}

function parseDependency({ execution, id }: Edge, result: ValkeyResult): DependencyRead {
  if (!result.ok && !isRecordError(result.error)) return { kind: "failed", error: result.error };
  const upstream = result.ok ? parseUpstreamId(result.value) : result.error.message;
  if (typeof upstream !== "string") return { kind: "upstream", upstream };
  const fields = { execution_id: execution.keys.id, edge_id: id, reason: upstream };
  return { kind: "invalid", problem: { message: "unresolved edge skipped", fields } };
}

/** The upstream of an edge, or the reason why its dependency record is invalid. */
function parseUpstreamId(value: unknown): UpstreamId | string {
  const fields = Array.isArray(value) ? value.map(fieldText) : [];
  const [upstreamText = "", flowText = "", state = ""] = fields;
  if (fields.every((field) => field === "")) return "its dependency record is missing";
  // The edge is in the set of unresolved edges, but its record says that it is resolved. No completion corrects that.
  if (state !== "unsatisfied") return `its dependency record has the state ${JSON.stringify(state)}`;
  const id = parseExecutionId(upstreamText);
  if (!id.ok) return `its upstream_execution_id is invalid: ${id.error.message}`;
  const flowId = parseFlowId(flowText);
  if (!flowId.ok) return `its flow_id is invalid: ${flowId.error.message}`;
  return { id: id.value, flowId: flowId.value };
}

const UPSTREAM_FIELDS = ["lifecycle_phase", "terminal_outcome", "completed_at", "last_transition_at"];

/** Reads each distinct upstream once; by `upstreamKey`. */
async function readStates(
  run: TaskRun,
  dependencies: readonly { readonly edge: Edge; readonly read: DependencyRead }[],
): Promise<ReadonlyMap<string, Upstream>> {
  const waitingFor = new Map<
    string,
    { readonly upstream: UpstreamId; readonly waiting: Set<BlockedExecution> }
  >();
  for (const { edge, read } of dependencies) {
    if (read.kind !== "upstream") continue;
    const key = upstreamKey(read.upstream);
    const entry = waitingFor.get(key) ?? { upstream: read.upstream, waiting: new Set() };
    waitingFor.set(key, entry);
    entry.waiting.add(edge.execution);
  }
  const results = await runForEach(run, [...waitingFor.values()], ({ upstream }) => {
    const { partition, core } = run.ports.router.execKeys(upstream.id);
    return command(partition, "hmget", core, ...UPSTREAM_FIELDS);
  });
  return new Map(
    results.map(({ item: { upstream, waiting }, result }) => [
      upstreamKey(upstream),
      { ...upstream, state: parseState(run, upstream.id, waiting, result) },
    ]),
  );
}

function parseState(
  run: TaskRun,
  id: ExecutionId,
  waiting: ReadonlySet<BlockedExecution>,
  result: ValkeyResult,
): UpstreamState {
  if (!result.ok) {
    if (!isRecordError(result.error)) return { kind: "failed", error: result.error };
    run.reportUpstream(id, "upstream cannot be read", { reason: result.error.message });
    return { kind: "invalid" };
  }
  const fields = Array.isArray(result.value) ? result.value.map(fieldText) : [];
  const [phase = "", outcome = "", completedAt = "", transitionAt = ""] = fields;
  if (phase === "" && outcome === "") {
    // A submitter may create downstream executions before their upstreams.
    const isPastGrace = [...waiting].some(({ changedAtMs }) => run.isPastGrace(changedAtMs));
    if (!isPastGrace) return { kind: "not_ended" };
    run.reportUpstream(id, "upstream has no record", { waiting: waiting.size });
    return { kind: "invalid" };
  }
  if (phase !== "terminal" || outcome === "" || outcome === "none") return { kind: "not_ended" };
  if (!isTerminalOutcome(outcome)) {
    run.reportUpstream(id, "upstream has an unknown outcome", { terminal_outcome: outcome });
    return { kind: "invalid" };
  }
  const end = [completedAt, transitionAt].find((time) => parseTime(time) !== undefined) ?? "";
  return { kind: "ended", outcome, end, endedAtMs: parseTime(end) };
}

/** Runs one command per item, in pipelines of bounded size. Returns one result per item, in their order. */
async function runForEach<T>(
  run: TaskRun,
  items: readonly T[],
  commandOf: (item: T) => ValkeyCommand,
): Promise<{ readonly item: T; readonly result: ValkeyResult }[]> {
  const results: { readonly item: T; readonly result: ValkeyResult }[] = [];
  for (const chunk of chunked(items, () => 1, COMMANDS_PER_PIPELINE)) {
    for (const result of await pipelineEach(run.ports.valkey, chunk, commandOf)) results.push(result);
  }
  return results;
}
