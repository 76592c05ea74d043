/**
 * The dispatcher: updates the children of completed executions. A batch of messages takes four round trips to Valkey,
 * and a fifth when a child was skipped. Section 9 of the contract lists what the dispatcher must not do.
 */

import { parseEdgeId } from "#shared/contract/ids.ts";
import type { CompletionEvent } from "#shared/contract/message.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import type { TerminalOutcome } from "#shared/contract/record.ts";
import { pairResults } from "#shared/contract/results.ts";
import { clearCheckpoints, resume, saveCheckpoints } from "#shared/dispatch/checkpoint.ts";
import { readChildren, reportUnreadable } from "#shared/dispatch/children.ts";
import { publishCascades } from "#shared/dispatch/publish-cascades.ts";
import { type EdgeSet, type RecordState, readRecords } from "#shared/dispatch/records.ts";
import { type ResolvePorts, resolveChildren } from "#shared/dispatch/resolve-children.ts";
import { TimeBudget } from "#shared/dispatch/time-budget.ts";
import {
  type CompletedExecution,
  DEFERRED,
  type DispatchResult,
  type EdgeResult,
  type EdgeToResolve,
  type FanOutPlan,
  failed,
} from "#shared/dispatch/types.ts";
import { OutOfTimeError, PublishError, type SluiceError, ValkeyError } from "#shared/errors.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import { METRICS, traceFields } from "#shared/runtime/telemetry.ts";
import { chunked } from "#shared/valkey/batches.ts";

/**
 * Edges that are read and resolved together. A batch with no more edges takes four round trips. With more, the next
 * window is read while this one is resolved, and memory stays bounded.
 */
const WINDOW = 2_500;
/**
 * Edges that go through the steps of a window together, beside the other chunks: the server works on one chunk while
 * this process decodes the replies for another.
 */
const CHUNK = 256;
/** A window begins only when this many of the slowest window so far fit into the time left. */
const RESERVED_WINDOWS = 2;
/** Round trips from the start of the first window to the last resolve: edges, children, calls. */
const ROUND_TRIPS_TO_RESOLVE = 3;

export interface DispatcherPorts extends ResolvePorts {
  readonly router: PartitionRouter;
  readonly publisher: CompletionPublisher;
  readonly maxCascadeDepth: number;
  /** When the invocation must have answered: milliseconds since the epoch. */
  readonly deadlineMs: number;
  /** Edges that are read and resolved together; 2,500 unless given. */
  readonly window?: number;
}

/**
 * Dispatches a batch: one result per event, in the events' order. Returns by the deadline, and never rejects because
 * of one event.
 *
 * Dispatching is idempotent: an event that is redelivered finds its edges resolved and its skipped children marked.
 *
 * @example
 * const [result] = await dispatch(ports, [event]);
 * if (result?.kind === "failed") console.error(result.errors); // leave the message in the queue
 */
export async function dispatch(
  ports: DispatcherPorts,
  events: readonly CompletionEvent[],
): Promise<DispatchResult[]> {
  const budget = new TimeBudget(ports.valkey, ports.now, ports.deadlineMs);
  const bounded = { ...ports, valkey: budget, ensureLibrary: () => budget.race(ports.ensureLibrary) };
  const admissions = events.map((event) => admit(bounded, event));
  const executions = shallowestOfEach(admissions.flatMap(({ execution }) => execution ?? []));
  const results = await dispatchExecutions(bounded, budget, [...executions.values()]);
  return admissions.map(({ execution, gate }) => {
    if (execution === undefined) return { kind: "stopped", gate };
    const counted = executions.get(keyOf(execution));
    return (
      (counted && results.get(counted)) ?? {
        kind: "failed",
        errors: [new ValkeyError(`the dispatcher returned no result for ${execution.executionId}`)],
      }
    );
  });
}

type Admission =
  | { readonly execution: CompletedExecution; readonly gate?: never }
  | { readonly execution?: never; readonly gate: "no_flow" | "depth_limit" };

/** The gates that need no record. */
function admit(ports: DispatcherPorts, event: CompletionEvent): Admission {
  const { executionId, flowId, depth, root, traceparent } = event;
  if (flowId === undefined) return { gate: "no_flow" };
  if (depth > ports.maxCascadeDepth) {
    ports.telemetry.count(METRICS.depthLimitReached);
    ports.telemetry.warn(
      "cascade stopped at MAX_CASCADE_DEPTH: the reconciler continues it",
      traceFields(event),
    );
    return { gate: "depth_limit" };
  }
  return { execution: { executionId, flowId, depth, root, traceparent } };
}

/** Several events may report one execution. The one with the lowest depth stands for all of them, unmixed. */
function shallowestOfEach(reported: readonly CompletedExecution[]): Map<string, CompletedExecution> {
  const executions = new Map<string, CompletedExecution>();
  for (const execution of reported) {
    const known = executions.get(keyOf(execution));
    if (known === undefined || execution.depth < known.depth) executions.set(keyOf(execution), execution);
  }
  return executions;
}

function keyOf({ executionId, flowId }: CompletedExecution): string {
  return `${executionId} ${flowId}`;
}

async function dispatchExecutions(
  ports: DispatcherPorts,
  budget: TimeBudget,
  executions: readonly CompletedExecution[],
): Promise<Map<CompletedExecution, DispatchResult>> {
  const states = await readRecords(ports.valkey, ports.router, executions);
  const results = new Map<CompletedExecution, DispatchResult>();
  const plans: FanOutPlan[] = [];
  const noState = (): RecordState => failed(new ValkeyError("the record was not read"));
  for (const { item: execution, result: state } of pairResults(executions, states, noState)) {
    const planned = planFanOut(ports, execution, state);
    if ("kind" in planned) results.set(execution, planned);
    else plans.push(planned);
  }
  for (const [plan, edgeResults] of await fanOut(ports, budget, plans)) {
    results.set(plan.execution, resultOf(plan, edgeResults));
  }
  return results;
}

/** The gates that need the record: the edges to resolve, or why there are none. */
function planFanOut(
  ports: DispatcherPorts,
  execution: CompletedExecution,
  state: RecordState,
): FanOutPlan | DispatchResult {
  if (state.kind === "failed") return { kind: "failed", errors: [state.error] };
  if (state.kind === "not_ended") {
    ports.telemetry.count(METRICS.recordNotTerminal);
    ports.telemetry.warn("nothing resolved: the execution has not ended, or was replayed", {
      ...traceFields(execution),
      lifecycle_phase: state.phase,
      terminal_outcome: state.outcome,
    });
    return { kind: "stopped", gate: "not_terminal" };
  }
  const edges = state.edges.flatMap((set) => edgesOf(ports, execution, state.outcome, set));
  return { execution, completedAt: state.completedAt, edges };
}

function edgesOf(
  ports: DispatcherPorts,
  execution: CompletedExecution,
  outcome: TerminalOutcome,
  { flow, ids }: EdgeSet,
): EdgeToResolve[] {
  const flowIndex = ports.router.indexKeys(flow.partition);
  return ids.flatMap((id) => {
    const edge = parseEdgeId(id);
    if (edge.ok) return [{ execution, outcome, edge: edge.value, flow, flowIndex }];
    reportUnreadable(ports.telemetry, { execution, edge: id }, edge.error.message);
    return [];
  });
}

type EdgeResults = ReadonlyMap<EdgeToResolve, EdgeResult>;

/** Steps 2 to 5 for all plans, window by window. Returns the plans with the edges that were due, and their results. */
async function fanOut(
  ports: DispatcherPorts,
  budget: TimeBudget,
  plans: readonly FanOutPlan[],
): Promise<Map<FanOutPlan, EdgeResults>> {
  const { window = WINDOW } = ports;
  const short = plans.filter(({ edges }) => edges.length <= window);
  const long = await resume(
    ports,
    plans.filter(({ edges }) => edges.length > window),
  );
  const due = [...short, ...long];
  const results = await resolveWindows(ports, budget, due, long, window);
  const isOver = ({ edges }: FanOutPlan): boolean =>
    edges.every((edge) => (results.get(edge) ?? DEFERRED).kind !== "deferred");
  await clearCheckpoints(
    ports,
    long.filter((plan) => isOver(plan) && !plan.edges.some((edge) => results.get(edge)?.kind === "failed")),
  );
  return new Map(due.map((plan) => [plan, results]));
}

/** Resolves the edges in windows: the next one is read while the one before is resolved and published. */
async function resolveWindows(
  ports: DispatcherPorts,
  budget: TimeBudget,
  plans: readonly FanOutPlan[],
  long: readonly FanOutPlan[],
  size: number,
): Promise<Map<EdgeToResolve, EdgeResult>> {
  const edges = plans.flatMap((plan) => plan.edges);
  const results = new Map<EdgeToResolve, EdgeResult>();
  const incomplete = new Set<CompletedExecution>();
  const record = (edge: EdgeToResolve, result: EdgeResult): void => {
    results.set(edge, result);
    if (result.kind === "failed" || result.kind === "deferred") incomplete.add(edge.execution);
  };
  let slowestWindowMs = 0;
  const hasTime = (): boolean =>
    budget.hasTimeFor(ROUND_TRIPS_TO_RESOLVE) &&
    ports.now() + RESERVED_WINDOWS * slowestWindowMs < ports.deadlineMs;
  let underWay: Promise<void> = Promise.resolve();
  for (let start = 0; start < edges.length; start += size) {
    const window = edges.slice(start, start + size);
    if (!hasTime()) {
      await underWay;
      for (const edge of edges.slice(start)) record(edge, DEFERRED);
      return results;
    }
    const chunks = [...chunked(window, () => 1, CHUNK)].map((chunk) => readChildren(ports, chunk));
    if (start > 0) {
      await Promise.all([...chunks, underWay]);
      if (!hasTime()) {
        for (const edge of edges.slice(start)) record(edge, DEFERRED);
        return results;
      }
    }
    const begunMs = ports.now();
    underWay = resolveWindow(ports, chunks).then(async (resolved) => {
      for (const { edge, result } of resolved) record(edge, result);
      await saveCheckpoints(ports, long, window, (execution) => incomplete.has(execution));
      slowestWindowMs = Math.max(slowestWindowMs, ports.now() - begunMs);
    });
  }
  await underWay;
  return results;
}

/** Steps 4 and 5 for one window: one final result per edge. */
async function resolveWindow(
  ports: DispatcherPorts,
  chunks: Parameters<typeof resolveChildren>[1],
): Promise<{ readonly edge: EdgeToResolve; readonly result: EdgeResult }[]> {
  const resolved = await resolveChildren(ports, chunks);
  const skipped = resolved.flatMap((one) => ("skipped" in one ? [one.skipped] : []));
  const published = pairResults(skipped, await publishCascades(ports, skipped), ({ cause }) =>
    failed(new PublishError(`the cascade of ${cause.child.id} was not published`)),
  );
  return [
    ...resolved.filter((one) => "result" in one),
    ...published.map(({ item, result }) => ({ edge: item.cause.edge, result })),
  ];
}

/** A completed execution is dispatched only when each of its edges has a result and none failed or was deferred. */
function resultOf({ execution, edges }: FanOutPlan, results: EdgeResults): DispatchResult {
  const errors: SluiceError[] = [];
  let deferred = 0;
  for (const edge of edges) {
    const result = results.get(edge) ?? failed(new ValkeyError(`edge ${edge.edge} is not accounted for`));
    if (result.kind === "failed") errors.push(result.error);
    if (result.kind === "deferred") deferred += 1;
  }
  if (deferred > 0) {
    errors.push(
      new OutOfTimeError(
        `the invocation ran out of time: ${deferred} edges of ${execution.executionId} are left`,
      ),
    );
  }
  const [first, ...others] = errors;
  return first === undefined ? { kind: "dispatched" } : { kind: "failed", errors: [first, ...others] };
}
