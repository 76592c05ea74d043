/**
 * The dispatcher: updates the children of completed executions. A batch of messages takes four round trips to Valkey,
 * and a fifth when a child was skipped. Section 9 of the contract lists what the dispatcher must not do.
 */

import { type ExecutionId, parseEdgeId } from "#shared/contract/ids.ts";
import type { CompletionEvent } from "#shared/contract/message.ts";
import type { UpstreamEnd } from "#shared/contract/resolve.ts";
import { pairResults } from "#shared/contract/results.ts";
import { reportUnreadable } from "#shared/dispatch/children.ts";
import { markDepthLimit } from "#shared/dispatch/depth-limit.ts";
import { type EdgeResults, type FanOutPorts, fanOut } from "#shared/dispatch/fan-out.ts";
import { type EdgeSet, type RecordState, readRecords } from "#shared/dispatch/records.ts";
import { type RestartPorts, restartCascades } from "#shared/dispatch/restart-cascades.ts";
import { TimeBudget } from "#shared/dispatch/time-budget.ts";
import {
  type CompletedExecution,
  type DispatchResult,
  type EdgeToResolve,
  type FanOutPlan,
  failed,
  isShallower,
} from "#shared/dispatch/types.ts";
import { OutOfTimeError, RefusedError, type SluiceError, ValkeyError } from "#shared/errors.ts";
import { METRICS, traceFields } from "#shared/runtime/telemetry.ts";

/** How often a record is read in all if the execution is replayed while its children are resolved. */
const MAX_READS = 3;
/** Restarts of one cascade at the depth limit, so that no error can keep it running for ever. */
const MAX_GENERATIONS = 20;
export interface DispatcherPorts extends FanOutPorts, RestartPorts {
  /** States that the caller has read after the executions ended, by execution id. They need not be read again. */
  readonly readBefore?: ReadonlyMap<ExecutionId, RecordState>;
  /** A message above this depth restarts its cascade at depth 0. */
  readonly maxCascadeDepth: number;
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
  const of = (kind: "dispatch" | "restart" | "give_up"): CompletedExecution[] =>
    admissions.flatMap((admission) => (admission.kind === kind ? admission.execution : []));
  const executions = shallowestOfEach(of("dispatch"));
  const restarts = shallowestOfEach(of("restart").filter((restart) => !executions.has(keyOf(restart))));
  const [dispatched, restarted] = await Promise.all([
    dispatchExecutions(bounded, budget, [...executions.values()]),
    restartCascades(bounded, [...restarts.values()]),
    markDepthLimit(bounded, "stopped", of("give_up")),
  ]);
  const results = new Map([...dispatched, ...restarted]);
  return admissions.map((admission) => {
    if (admission.kind === "stopped") return admission;
    if (admission.kind === "give_up") return { kind: "stopped", gate: "depth_limit" };
    const key = keyOf(admission.execution);
    const counted = executions.get(key) ?? restarts.get(key);
    return (
      (counted && results.get(counted)) ?? {
        kind: "failed",
        errors: [new ValkeyError(`the dispatcher returned no result for ${admission.execution.executionId}`)],
      }
    );
  });
}

type Admission =
  | { readonly kind: "dispatch"; readonly execution: CompletedExecution }
  /** The message is above the depth limit: its cascade restarts at depth 0. */
  | { readonly kind: "restart"; readonly execution: CompletedExecution }
  /** It was restarted too often: the reconciler continues it. */
  | { readonly kind: "give_up"; readonly execution: CompletedExecution }
  | Extract<DispatchResult, { kind: "stopped" }>;

/** The gates (checks before any edge is resolved) that need no record: the message has a flow, and is not too deep. */
function admit(ports: DispatcherPorts, event: CompletionEvent): Admission {
  const { executionId, flowId, depth, generation, root, traceparent } = event;
  if (flowId === undefined) return { kind: "stopped", gate: "no_flow" };
  const execution = { executionId, flowId, depth, generation, root, traceparent };
  if (depth <= ports.maxCascadeDepth) return { kind: "dispatch", execution };
  ports.telemetry.count(METRICS.depthLimitReached);
  if (generation < MAX_GENERATIONS) {
    ports.telemetry.warn("cascade reached MAX_CASCADE_DEPTH: it restarts at depth 0", traceFields(event));
    return { kind: "restart", execution };
  }
  ports.telemetry.warn(
    `cascade stopped at MAX_CASCADE_DEPTH after ${MAX_GENERATIONS} restarts: the reconciler continues it`,
    traceFields(event),
  );
  return { kind: "give_up", execution };
}

/** Of several events for one execution, keeps the shallowest one, with its root and its trace context. */
function shallowestOfEach(reported: readonly CompletedExecution[]): Map<string, CompletedExecution> {
  const executions = new Map<string, CompletedExecution>();
  for (const execution of reported) {
    const known = executions.get(keyOf(execution));
    if (known === undefined || isShallower(execution, known)) executions.set(keyOf(execution), execution);
  }
  return executions;
}

function keyOf({ executionId, flowId }: CompletedExecution): string {
  return `${executionId} ${flowId}`;
}

/**
 * Dispatches each execution according to its record. If an execution is replayed while its children are resolved, the
 * library refuses the remaining calls with `upstream_changed`, and the record is read again.
 */
async function dispatchExecutions(
  ports: DispatcherPorts,
  budget: TimeBudget,
  executions: readonly CompletedExecution[],
  reads = MAX_READS,
): Promise<Map<CompletedExecution, DispatchResult>> {
  // After a replay, what was read before is out of date.
  const readBefore = reads === MAX_READS ? ports.readBefore : undefined;
  const unread = executions.filter(({ executionId }) => !readBefore?.has(executionId));
  const noState = (): RecordState => failed(new ValkeyError("the record was not read"));
  const read = new Map(
    pairResults(unread, await readRecords(ports, unread), noState).map(({ item, result }) => [item, result]),
  );
  const results = new Map<CompletedExecution, DispatchResult>();
  const plans: FanOutPlan[] = [];
  for (const execution of executions) {
    const state = readBefore?.get(execution.executionId) ?? read.get(execution) ?? noState();
    const planned = planFanOut(ports, execution, state);
    if ("kind" in planned) results.set(execution, planned);
    else plans.push(planned);
  }
  const edgeResults = await fanOut(ports, budget, plans);
  const changed = plans.filter(({ edges }) =>
    edges.some((edge) => edgeResults.get(edge)?.kind === "upstream_changed"),
  );
  for (const plan of plans) results.set(plan.execution, resultOf(plan, edgeResults));
  if (changed.length === 0 || reads === 1) return results;
  const again = await dispatchExecutions(
    ports,
    budget,
    changed.map(({ execution }) => execution),
    reads - 1,
  );
  return new Map([...results, ...again]);
}

/** The gates that need the record. Returns the edges to resolve, or the result if there are none to resolve. */
function planFanOut(
  ports: DispatcherPorts,
  execution: CompletedExecution,
  state: RecordState,
): FanOutPlan | DispatchResult {
  if (state.kind === "failed") return { kind: "failed", errors: [state.error] };
  if (state.kind === "flow_purged") {
    ports.telemetry.count(METRICS.flowPurged);
    return { kind: "stopped", gate: "flow_purged" };
  }
  if (state.kind === "not_ended") {
    ports.telemetry.count(METRICS.recordNotTerminal);
    ports.telemetry.warn("nothing resolved: the execution has not ended, or was replayed", {
      ...traceFields(execution),
      lifecycle_phase: state.phase,
      terminal_outcome: state.outcome,
    });
    return { kind: "stopped", gate: "not_terminal" };
  }
  const edges = state.edges.flatMap((set) => edgesOf(ports, execution, state.end, set));
  return { execution, completedAt: state.end.completedAt, edges };
}

function edgesOf(
  ports: DispatcherPorts,
  execution: CompletedExecution,
  upstream: UpstreamEnd,
  { flow, ids }: EdgeSet,
): EdgeToResolve[] {
  const flowIndex = ports.router.indexKeys(flow.partition);
  return ids.flatMap((id) => {
    const edge = parseEdgeId(id);
    if (edge.ok) return [{ execution, upstream, edge: edge.value, flow, flowIndex }];
    reportUnreadable(ports.telemetry, { execution, edge: id }, edge.error.message);
    return [];
  });
}

/** A completed execution is dispatched only when each of its edges has a result and none failed or was deferred. */
function resultOf({ execution, edges }: FanOutPlan, results: EdgeResults): DispatchResult {
  const errors: SluiceError[] = [];
  let [deferred, changed] = [0, 0];
  for (const edge of edges) {
    const result = results.get(edge) ?? failed(new ValkeyError(`edge ${edge.edge} has no result`));
    if (result.kind === "failed") errors.push(result.error);
    if (result.kind === "upstream_changed") changed += 1;
    if (result.kind === "deferred") deferred += 1;
  }
  if (deferred > 0) {
    errors.push(
      new OutOfTimeError(
        `the invocation ran out of time: ${deferred} edges of ${execution.executionId} are not resolved yet`,
      ),
    );
  }
  if (changed > 0) {
    errors.push(new RefusedError("ff_resolve_dependency", "upstream_changed", [], true));
  }
  const [first, ...others] = errors;
  return first === undefined ? { kind: "dispatched" } : { kind: "failed", errors: [first, ...others] };
}
