/**
 * Plans a replay: which executions run again, and which of their skipped descendants wait for them.
 *
 * A skipped execution can only run again if its dependencies can still be satisfied: each upstream of an edge that is not
 * satisfied must be replayed too, or must not have ended, or must have succeeded since. Otherwise it would be skipped again.
 * With a group, as many edges as the group needs.
 */

import { type ExecutionRecord, readExecutions, reasonOf } from "#operate/execution.ts";
import { plural } from "#operate/words.ts";
import type { Verdict } from "#operate/write/changes.ts";
import { addDescendants, type Nodes } from "#operate/write/replay/descendants.ts";
import { type Dependencies, type EdgePorts, readDependencies } from "#operate/write/replay/edges.ts";
import { topologicalOrder } from "#sdk/submission/graph.ts";
import { command } from "#shared/contract/command.ts";
import type { ExecutionId } from "#shared/contract/ids.ts";
import { parseJsonObject } from "#shared/contract/message.ts";
import { fieldText } from "#shared/contract/record.ts";
import { readEach } from "#shared/valkey/batches.ts";

/** `ff_replay_execution` without a policy. */
const DEFAULT_MAX_REPLAYS = 10;
const LEVEL_DIGITS = 6;

export interface PlannedReplay {
  readonly execution: ExecutionRecord;
  readonly verdict: Verdict;
  /** Whether it is skipped, and waits for dependencies after the replay. */
  readonly isSkipped: boolean;
  /** Its place among all planned executions, as text. It does not depend on states, which change from page to page. */
  readonly place: string;
}

export interface ReplayPlan {
  /** In the order in which they are replayed: skipped executions, each after its upstreams, and the others last. */
  readonly planned: readonly PlannedReplay[];
  /** The executions that run again. */
  readonly replayed: ReadonlySet<ExecutionId>;
}

export interface PlanOptions {
  /** Whether to plan the skipped descendants of the selected executions, too. */
  readonly withDescendants: boolean;
  /** Executions that were replayed before, whose skipped descendants are planned, too. */
  readonly starts?: readonly ExecutionRecord[];
}

/** Plans the replay of the selected executions. Throws a ValkeyError. */
export async function planReplay(
  ports: EdgePorts,
  selected: readonly ExecutionRecord[],
  { withDescendants, starts = [] }: PlanOptions,
): Promise<ReplayPlan> {
  const nodes: Nodes = new Map([...starts, ...selected].map((one) => [one.keys.id, one]));
  const levels = withDescendants ? await addDescendants(ports, nodes) : new Map<ExecutionId, number>();
  const isSelected = new Set(selected.map(({ keys }) => keys.id));
  const candidates = [...nodes.values()].filter(
    (one) => isSelected.has(one.keys.id) || (withDescendants && isSkipped(one)),
  );
  const limits = await readLimits(ports, candidates);
  const replayed = new Set<ExecutionId>();
  const plan = (execution: ExecutionRecord, place: string, verdict: Verdict): PlannedReplay => {
    if (verdict.status === "would_change") replayed.add(execution.keys.id);
    return { execution, place, verdict, isSkipped: isSkipped(execution) };
  };
  const roots = candidates
    .filter((one) => !isSkipped(one))
    .map((one) => plan(one, `r${one.keys.id}`, exhausted(one, limits) ?? rootVerdict(one)));
  const skipped = candidates.filter(isSkipped);
  const dependencies = await readDependencies(ports, skipped);
  await addUpstreams(ports, nodes, dependencies);
  const dependenciesOf = new Map(skipped.map((one, at) => [one, dependencies[at] ?? NO_DEPENDENCIES]));
  const descendants = upstreamsFirst(dependenciesOf).map((one) => {
    const level = String(levels.get(one.keys.id) ?? 0).padStart(LEVEL_DIGITS, "0");
    const own = dependenciesOf.get(one) ?? NO_DEPENDENCIES;
    return plan(
      one,
      `d${level}${one.keys.id}`,
      exhausted(one, limits) ?? skippedVerdict(own, nodes, replayed),
    );
  });
  return { planned: [...descendants, ...roots].sort(byPlace), replayed };
}

const NO_DEPENDENCIES: Dependencies = { edges: [], quorum: undefined };

function isSkipped({ fields, flowId }: ExecutionRecord): boolean {
  return fields.terminal_outcome === "skipped" && flowId !== undefined;
}

/** Adds the upstreams that are not known yet. One without a record stays unknown. */
async function addUpstreams(
  ports: EdgePorts,
  nodes: Nodes,
  dependencies: readonly Dependencies[],
): Promise<void> {
  const upstreams = new Set(dependencies.flatMap(({ edges }) => edges.map(({ upstream }) => upstream)));
  const unknown = [...upstreams].filter((id) => !nodes.has(id));
  for (const execution of await readExecutions(ports, unknown)) {
    if (execution !== undefined) nodes.set(execution.keys.id, execution);
  }
}

function upstreamsFirst(dependenciesOf: ReadonlyMap<ExecutionRecord, Dependencies>): ExecutionRecord[] {
  const byId = new Map<string, ExecutionRecord>([...dependenciesOf.keys()].map((one) => [one.keys.id, one]));
  const order = topologicalOrder({
    tasks: [...byId.keys()].map((id) => ({ id })),
    edges: [...dependenciesOf].flatMap(([{ keys }, { edges }]) =>
      edges.map(({ upstream }) => ({ from: upstream, to: keys.id })),
    ),
  });
  return (order ?? []).flatMap((id) => byId.get(id) ?? []);
}

/** How often each execution may be replayed. */
async function readLimits(
  { valkey }: EdgePorts,
  executions: readonly ExecutionRecord[],
): Promise<Map<ExecutionRecord, number>> {
  const policies = await readEach(valkey, executions, ({ keys }) =>
    command(keys.partition, "get", keys.policy),
  );
  return new Map(
    executions.map((execution, at) => {
      const limit = parseJsonObject(fieldText(policies[at]))?.max_replay_count;
      return [execution, typeof limit === "number" ? limit : DEFAULT_MAX_REPLAYS];
    }),
  );
}

function exhausted(
  execution: ExecutionRecord,
  limits: ReadonlyMap<ExecutionRecord, number>,
): Verdict | undefined {
  const replays = Number(execution.fields.replay_count);
  if (execution.fields.lifecycle_phase !== "terminal") return undefined;
  if (replays < (limits.get(execution) ?? DEFAULT_MAX_REPLAYS)) return undefined;
  return {
    status: "failed",
    code: "max_replays_exhausted",
    text: `cannot be replayed: it was replayed ${replays} times, which its policy limits`,
  };
}

function rootVerdict(execution: ExecutionRecord): Verdict {
  const { fields } = execution;
  const { lifecycle_phase: phase, attempt_state: attempt, terminal_outcome: outcome } = fields;
  if (phase === "terminal") {
    const reason = reasonOf(execution);
    const was = PAST[outcome] ?? `was ${outcome}`;
    const text = `runs again (it ${was}${reason === "" ? "" : `: ${reason}`})`;
    return { status: "would_change", text };
  }
  return attempt === "pending_replay_attempt"
    ? { status: "unchanged", code: "already_replayed", text: "is replayed already, and has not run since" }
    : { status: "unchanged", code: "not_ended", text: `has not ended: ${fields.public_state}` };
}

/** Whether a skipped execution can run once the executions of `replayed` have run again. */
function skippedVerdict(
  { edges, quorum = edges.length }: Dependencies,
  nodes: Nodes,
  replayed: ReadonlySet<ExecutionId>,
): Verdict {
  const lost = edges.filter(({ upstream, state }) => {
    const record = nodes.get(upstream);
    if (state === "satisfied" || replayed.has(upstream)) return false;
    const { lifecycle_phase: phase, terminal_outcome: outcome } = record?.fields ?? {};
    return record === undefined || (phase === "terminal" && outcome !== "success");
  });
  if (edges.length - lost.length >= quorum && edges.length > 0) {
    const waits = edges.filter(({ state }) => state !== "satisfied").length;
    return {
      status: "would_change",
      text: `waits for ${plural(waits, "dependency", "dependencies")} again, and then runs`,
    };
  }
  const [first] = lost;
  const why =
    first === undefined ? "its dependencies are unknown" : `its upstream ${describe(first.upstream, nodes)}`;
  return { status: "unchanged", code: "upstream_not_replayed", text: `stays skipped: ${why}` };
}

function describe(id: ExecutionId, nodes: Nodes): string {
  const record = nodes.get(id);
  if (record === undefined) return `${id} was deleted`;
  const { terminal_outcome: outcome, skip_root: root } = record.fields;
  const cause = outcome === "skipped" && root !== "" ? `; the cause is ${root}` : "";
  return `${id} ${PRESENT[outcome] ?? `is ${outcome}`}, and is not replayed${cause}`;
}

const PRESENT: Readonly<Record<string, string>> = { failed: "has failed", expired: "has expired" };
const PAST: Readonly<Record<string, string>> = {
  success: "had succeeded",
  failed: "had failed",
  expired: "had expired",
};

function byPlace(left: PlannedReplay, right: PlannedReplay): number {
  return left.place < right.place ? -1 : 1;
}
