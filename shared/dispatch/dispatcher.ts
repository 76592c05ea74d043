/**
 * The dispatcher: deals with the children of completed executions, in four round trips for a whole batch of
 * messages, and a fifth where something was skipped. Section 9 of the contract lists what it must not do.
 */

import { parseEdgeId } from "#shared/contract/ids.ts";
import type { CompletionEvent } from "#shared/contract/message.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import type { TerminalOutcome } from "#shared/contract/record.ts";
import { publishCascades } from "#shared/dispatch/cascade.ts";
import { readChildren, reportUnreadable } from "#shared/dispatch/children.ts";
import { type FanOut, resolveChildren } from "#shared/dispatch/fan-out.ts";
import { forgetPlaces, keepPlaces, resume } from "#shared/dispatch/progress.ts";
import { type EdgeSet, readRecords } from "#shared/dispatch/records.ts";
import type { EdgeWork, FanOutPlan, Work } from "#shared/dispatch/work.ts";
import { OutOfTimeError, type SluiceError } from "#shared/errors.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import { METRICS, traceFields } from "#shared/runtime/telemetry.ts";
import { chunked } from "#shared/valkey/batches.ts";

/**
 * Edges that are read and resolved together. Up to here a batch takes four round trips; beyond, the next
 * edges are read while these are resolved, and memory stays bounded.
 */
const WINDOW = 2_500;
/**
 * Edges of a window that go through its steps on their own, beside the others: the server works on one chunk while
 * this side reads the replies for another and encodes what comes next.
 */
const CHUNK = 256;
/** A window is begun while this many of the slowest so far would fit into the time that is left. */
const RESERVED_WINDOWS = 2;

export interface DispatcherPorts extends FanOut {
  readonly router: PartitionRouter;
  readonly publisher: CompletionPublisher;
  readonly maxCascadeDepth: number;
  /** When the invocation must have answered: milliseconds since the epoch. */
  readonly deadlineMs: number;
  /** Edges that are read and resolved together; 2,500 unless given. */
  readonly window?: number;
}

/**
 * Dispatches a batch. For each event, in order, the errors for which its message must come again; none: the
 * message is done. Never rejects for one event's sake.
 */
export async function dispatch(
  ports: DispatcherPorts,
  events: readonly CompletionEvent[],
): Promise<(readonly SluiceError[])[]> {
  const works = new Map<string, Work>();
  const workOf = events.map((event) => admit(ports, works, event));
  const plans = await planFanOuts(ports, [...works.values()]);
  const { window = WINDOW } = ports;
  const short = plans.filter(({ edges }) => edges.length <= window);
  const long = await resume(
    ports,
    plans.filter(({ edges }) => edges.length > window),
  );
  await fanOut(
    ports,
    [...short, ...long].flatMap(({ edges }) => edges),
    long,
    window,
  );
  await forgetPlaces(ports, long);
  return workOf.map((work) => work?.errors ?? []);
}

/** Steps 2 to 5, window by window: the next one is read while the one before is resolved and published. */
async function fanOut(
  ports: DispatcherPorts,
  edges: readonly EdgeWork[],
  long: readonly FanOutPlan[],
  size: number,
): Promise<void> {
  let underWay: Promise<void> = Promise.resolve();
  let slowestMs = 0;
  for (let start = 0; start < edges.length; start += size) {
    const window = edges.slice(start, start + size);
    if (isTimeUp(ports, slowestMs)) {
      await underWay;
      leaveOver(edges.slice(start));
      return;
    }
    const chunks = [...chunked(window, () => 1, CHUNK)].map((chunk) => readChildren(ports, chunk));
    if (start > 0) {
      await Promise.all([...chunks, underWay]);
      if (isTimeUp(ports, slowestMs)) {
        leaveOver(edges.slice(start));
        return;
      }
    }
    const begunMs = ports.now();
    underWay = resolveChildren(ports, chunks)
      .then((cascades) => publishCascades(ports, cascades))
      .then(() => keepPlaces(ports, long, window))
      .then(() => {
        slowestMs = Math.max(slowestMs, ports.now() - begunMs);
      });
  }
  await underWay;
}

function isTimeUp({ now, deadlineMs }: DispatcherPorts, slowestMs: number): boolean {
  return now() + RESERVED_WINDOWS * slowestMs >= deadlineMs;
}

/** There is no time for these edges any more: their messages come again, and what is done stays done. */
function leaveOver(edges: readonly EdgeWork[]): void {
  for (const [work, left] of Map.groupBy(edges, ({ work }) => work)) {
    work.errors.push(new OutOfTimeError(`the invocation's time is up, with ${left.length} edges left`));
  }
}

/** The gates that need no record. Events for the same execution in one batch are one work. */
function admit(ports: DispatcherPorts, works: Map<string, Work>, event: CompletionEvent): Work | undefined {
  const { executionId, flowId, depth, root, traceparent } = event;
  if (flowId === undefined) return undefined;
  if (depth > ports.maxCascadeDepth) {
    ports.telemetry.count(METRICS.depthLimitReached);
    ports.telemetry.warn(
      "the cascade is deeper than MAX_CASCADE_DEPTH: its rest is left to the reconciler",
      traceFields(event),
    );
    return undefined;
  }
  const key = `${executionId} ${flowId}`;
  const known = works.get(key);
  if (known !== undefined) {
    known.depth = Math.min(known.depth, depth);
    return known;
  }
  const work: Work = { executionId, flowId, depth, root, traceparent, errors: [] };
  works.set(key, work);
  return work;
}

/** Round trip 1 and the gates that need the record: what is to be resolved. */
async function planFanOuts(ports: DispatcherPorts, works: readonly Work[]): Promise<FanOutPlan[]> {
  const states = await readRecords(ports.valkey, ports.router, works);
  const plans: FanOutPlan[] = [];
  for (const [position, work] of works.entries()) {
    const state = states[position];
    if (state?.kind === "fault") work.errors.push(state.error);
    if (state?.kind === "ended") {
      const edges = state.edges.flatMap((set) => edgesOf(ports, work, state.outcome, set));
      plans.push({ work, completedAt: state.completedAt, edges });
    }
    if (state?.kind === "not_ended") {
      ports.telemetry.count(METRICS.recordNotTerminal);
      ports.telemetry.warn("the execution has not ended, or was replayed: nothing is resolved", {
        ...traceFields(work),
        lifecycle_phase: state.phase,
        terminal_outcome: state.outcome,
      });
    }
  }
  return plans;
}

function edgesOf(
  ports: DispatcherPorts,
  work: Work,
  outcome: TerminalOutcome,
  { flow, ids }: EdgeSet,
): EdgeWork[] {
  const flowIndex = ports.router.indexKeys(flow.partition);
  return ids.flatMap((id) => {
    const edge = parseEdgeId(id);
    if (edge.ok) return [{ work, outcome, edge: edge.value, flow, flowIndex }];
    reportUnreadable(ports.telemetry, { work, edge: id }, edge.error.message);
    return [];
  });
}
