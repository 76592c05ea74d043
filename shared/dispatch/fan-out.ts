/** Round trip 4: `ff_resolve_dependency` for each child, and what its reply means. */

import type { Pipelines, ValkeyResult } from "#shared/contract/command.ts";
import type { Edition } from "#shared/contract/edition.ts";
import { decodeResolution, type Resolution, resolveDependency } from "#shared/contract/resolve.ts";
import { readStates } from "#shared/dispatch/children.ts";
import type { Cascade, ChildState, ChildWork } from "#shared/dispatch/work.ts";
import { RefusedError, type SluiceError, ValkeyError } from "#shared/errors.ts";
import { METRICS, type MetricName, type Telemetry } from "#shared/runtime/telemetry.ts";

const SKIPPED = "skipped";
const NOT_APPLIED = "invalid_dependency";

export interface FanOut {
  readonly valkey: Pipelines;
  readonly edition: Edition;
  readonly telemetry: Telemetry;
  /** Loads the library where it is missing. */
  readonly ensureLibrary: () => Promise<void>;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
}

/**
 * Resolves the edge of every child, and returns the skipped children whose cascade is due: those that these
 * calls skipped, and those that an earlier delivery skipped without living to publish it. What failed is a
 * fault of its work and holds up no other edge.
 *
 * The calls for a chunk of children are sent as soon as those are read, whatever the others are at.
 */
export async function resolveChildren(
  fanOut: FanOut,
  chunks: readonly Promise<readonly ChildWork[]>[],
): Promise<Cascade[]> {
  const cascades: Cascade[] = [];
  const resolvedBefore: ChildWork[] = [];
  const tally = new Map<MetricName, number>();
  for (const { child, nowMs, result } of await callAll(fanOut, chunks)) {
    const resolution = interpret(result);
    if (resolution instanceof Error) {
      child.work.errors.push(resolution);
      continue;
    }
    for (const metric of metricsOf(resolution)) tally.set(metric, (tally.get(metric) ?? 0) + 1);
    if (resolution.kind === "already_resolved") resolvedBefore.push(child);
    if (resolution.kind === "impossible" && resolution.childSkipped) {
      cascades.push({ cause: child, completedAt: String(nowMs), isInherited: false });
    }
  }
  // Every value of a metric is written to the log: one for each metric, and not one for each edge.
  for (const [metric, value] of tally) fanOut.telemetry.count(metric, value);
  return [...cascades, ...(await unpublished(fanOut, resolvedBefore))];
}

interface Call {
  readonly child: ChildWork;
  /** When it was made: what the contract makes the `completed_at` of a child that it skips. */
  readonly nowMs: number;
  readonly result: ValkeyResult;
}

/** Calls the function for all children; a node that lacks the library gets it, and is asked once more. */
async function callAll(
  fanOut: FanOut,
  chunks: readonly Promise<readonly ChildWork[]>[],
): Promise<readonly Call[]> {
  const calls = (await Promise.all(chunks.map(async (chunk) => callOnce(fanOut, await chunk)))).flat();
  const missing = calls.filter(({ result }) => !result.ok && isFunctionMissing(result.error));
  if (missing.length === 0) return calls;
  const others = calls.filter((call) => !missing.includes(call));
  try {
    await fanOut.ensureLibrary();
  } catch (error) {
    const cause = new ValkeyError("loading the Valkey library failed", { cause: error });
    for (const { child } of missing) child.work.errors.push(cause);
    return others;
  }
  const again = await callOnce(
    fanOut,
    missing.map(({ child }) => child),
  );
  return [...others, ...again];
}

async function callOnce(fanOut: FanOut, children: readonly ChildWork[]): Promise<Call[]> {
  const nowMs = fanOut.now();
  const results = await fanOut.valkey.pipelined(
    children.map((child) =>
      resolveDependency(fanOut.edition, { ...child, upstream: child.work.executionId }, child.outcome, nowMs),
    ),
  );
  return children.map((child, position) => ({
    child,
    nowMs,
    result: results[position] ?? { ok: false, error: new Error("the pipeline gave no result") },
  }));
}

function isFunctionMissing(error: Error): boolean {
  return error.message.startsWith("ERR Function not found");
}

function interpret(result: ValkeyResult): Exclude<Resolution, { kind: "refused" }> | SluiceError {
  if (!result.ok) return new ValkeyError("ff_resolve_dependency failed", { cause: result.error });
  const resolution = decodeResolution(result.value);
  if (!resolution.ok) return resolution.error;
  const { value } = resolution;
  if (value.kind !== "refused") return value;
  // An edge that is staged and not yet applied to the child: its submitter is about to.
  return new RefusedError("ff_resolve_dependency", value.code, value.detail, value.code === NOT_APPLIED);
}

function metricsOf(resolution: Exclude<Resolution, { kind: "refused" }>): readonly MetricName[] {
  switch (resolution.kind) {
    case "satisfied":
      return [METRICS.edgesSatisfied];
    case "impossible":
      return resolution.childSkipped
        ? [METRICS.edgesImpossible, METRICS.childrenSkipped]
        : [METRICS.edgesImpossible];
    case "already_resolved":
      return [METRICS.edgesAlreadyResolved];
    case "pending":
    case "already_fired":
      return [METRICS.edgesCountedInGroup];
  }
}

/**
 * Of children whose edge had been resolved before, those that stand skipped with no cascade published for
 * that skip. A record that had not ended when it was read may have been skipped between then and the call, by
 * another delivery of this very message, and that delivery may be dead: such a record is read once more.
 */
async function unpublished(fanOut: FanOut, children: readonly ChildWork[]): Promise<Cascade[]> {
  const due = (cause: ChildWork, state: ChildState): Cascade[] =>
    state.outcome === SKIPPED && state.cascaded !== state.completedAt
      ? [{ cause, completedAt: state.completedAt, isInherited: true }]
      : [];
  const open = children.filter(({ lane, state }) => lane !== undefined && !hasEnded(state));
  const cascades = children.flatMap((child) => due(child, child.state));
  if (open.length === 0) return cascades;
  const states = await readStates(
    fanOut.valkey,
    open.map(({ child }) => child),
  );
  for (const [position, child] of open.entries()) {
    const state = states[position];
    if (state?.ok) cascades.push(...due(child, state.state));
    else if (state) child.work.errors.push(state.error);
  }
  return cascades;
}

function hasEnded({ outcome }: ChildState): boolean {
  return outcome !== "" && outcome !== "none";
}
