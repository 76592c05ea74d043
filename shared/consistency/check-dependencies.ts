/** Compares the dependencies of executions with each other: dep records, sets, counters, and its edge group. */

import { confirmed, type Finding } from "#shared/consistency/finding.ts";
import { flowOf } from "#shared/consistency/flow-of.ts";
import {
  type ConsistencyPorts,
  membersOf,
  membersOfEach,
  readAll,
  readOfEach,
  textsOf,
} from "#shared/consistency/read.ts";
import { command } from "#shared/contract/command.ts";
import { type EdgeId, parseEdgeId } from "#shared/contract/ids.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { fieldText } from "#shared/contract/record.ts";

/** How many dependencies have each state. */
interface Counts {
  applied: number;
  /** In `deps:unresolved`. */
  unresolved: number;
  unsatisfied: number;
  satisfied: number;
  impossible: number;
}

/** What the keys with counters say. */
interface Counters {
  readonly applied: number;
  readonly unresolved: number;
  readonly eligibility: string;
  readonly flowId: string;
  readonly unsatisfied: number;
  readonly impossible: number;
  readonly group: Group;
}

interface Group {
  readonly policy: string;
  readonly n: number;
  readonly succeeded: number;
  readonly failed: number;
  readonly skipped: number;
  readonly state: string;
}

const NONE: Counts = { applied: 0, unresolved: 0, unsatisfied: 0, satisfied: 0, impossible: 0 };

/** Returns what is wrong with the dependencies of executions. Reads only. */
export async function checkDependencies(
  ports: ConsistencyPorts,
  page: readonly ExecKeys[],
): Promise<Finding[]> {
  const inspected = await inspect(ports, page, await readStates(ports, page));
  const findings: Finding[] = [];
  for (const [position, keys] of page.entries()) {
    if (inspected[position]?.length === 0) continue;
    findings.push(
      ...(await confirmed(
        async () => (await readStates(ports, [keys]))[0] ?? [],
        async (state) => (await inspect(ports, [keys], [state]))[0] ?? [],
      )),
    );
  }
  return findings;
}

const META_FIELDS = ["unsatisfied_required_count", "impossible_required_count", "last_dependency_update_at"];
const GROUP_FIELDS = ["policy_variant", "n", "succeeded", "failed", "skipped", "group_state"];

/** Reads what tells a change of the dependencies: every function that changes one changes one of these. */
async function readStates(ports: ConsistencyPorts, page: readonly ExecKeys[]): Promise<string[][]> {
  const own = await readOfEach(ports, page, (keys) => [
    command(keys.partition, "scard", keys.depsAllEdges),
    command(keys.partition, "scard", keys.depsUnresolved),
    command(keys.partition, "hmget", keys.core, "eligibility_state", "flow_id", "last_mutation_at"),
    command(keys.partition, "hmget", keys.depsMeta, ...META_FIELDS),
  ]);
  const states = own.map(([applied, unresolved, core, meta]) => [
    String(applied),
    String(unresolved),
    ...textsOf(core),
    ...textsOf(meta),
  ]);
  const groups = await readOfEach(ports, page, (keys) => {
    const flow = flowOf(keys, states[page.indexOf(keys)]?.[3] ?? "");
    return flow === undefined
      ? []
      : [command(keys.partition, "hmget", flow.edgeGroup(keys.id), ...GROUP_FIELDS)];
  });
  return states.map((state, position) => [...state, ...textsOf(groups[position]?.[0])]);
}

/** An execution with its counters, and what its dep records are found to be. */
interface Inspected {
  readonly keys: ExecKeys;
  readonly counters: Counters;
  readonly counts: Counts;
  readonly findings: Finding[];
  /** The edges of large sets may be read twice. */
  readonly seen: Set<string>;
}

/** Returns what seems to be wrong with each execution. A concurrent change may be the reason. */
async function inspect(
  ports: ConsistencyPorts,
  page: readonly ExecKeys[],
  states: readonly (readonly string[])[],
): Promise<Finding[][]> {
  const items = page.map((keys, position): Inspected => {
    const counters = countersOf(states[position] ?? []);
    return { keys, counters, counts: { ...NONE }, findings: [], seen: new Set() };
  });
  const sets = items.map((owner) => ({
    owner,
    set: { partition: owner.keys.partition, key: owner.keys.depsAllEdges, type: "set" as const },
    size: owner.counters.applied,
  }));
  for await (const edges of membersOfEach(ports, sets)) await inspectEdges(ports, edges);
  for (const { keys, counters, counts, findings } of items) {
    if (counters.unresolved !== counts.unresolved) findings.push(...(await strayEdges(ports, keys)));
    findings.push(...compareCounters(keys, counters, counts));
  }
  return items.map(({ findings }) => findings);
}

async function inspectEdges(
  ports: ConsistencyPorts,
  edges: readonly { readonly owner: Inspected; readonly member: string }[],
): Promise<void> {
  const parsed = edges.flatMap(({ owner, member }) => {
    const edge = parseEdgeId(member);
    if (!edge.ok || owner.seen.has(member)) return [];
    owner.seen.add(member);
    return [{ owner, edge: edge.value }];
  });
  const replies = await readOfEach(ports, parsed, ({ owner: { keys, counters }, edge }) => [
    command(keys.partition, "hget", keys.dep(edge), "state"),
    command(keys.partition, "sismember", keys.depsUnresolved, edge),
    command(keys.partition, "exists", edgeKeyOf(keys, counters, edge)),
  ]);
  for (const [position, { owner, edge }] of parsed.entries()) {
    const { keys, counters, counts, findings } = owner;
    const [value, unresolved, staged] = replies[position] ?? [];
    const state = fieldText(value);
    counts.applied += 1;
    if (unresolved === 1) counts.unresolved += 1;
    if (state === "") {
      findings.push(withoutDependency(keys, edge));
      continue;
    }
    counts[state === "satisfied" || state === "impossible" ? state : "unsatisfied"] += 1;
    if (staged === 0) findings.push(withoutEdge(keys, edgeKeyOf(keys, counters, edge)));
    if ((unresolved === 1) !== (state === "unsatisfied")) findings.push(wrongUnresolved(keys, edge, state));
  }
}

function countersOf([
  applied,
  unresolved,
  eligibility = "",
  flowId = "",
  ,
  ...numbers
]: readonly string[]): Counters {
  const [unsatisfied, impossible, , policy = "", n, succeeded, failed, skipped, state = ""] = numbers;
  return {
    applied: Number(applied),
    unresolved: Number(unresolved),
    eligibility,
    flowId,
    unsatisfied: Number(unsatisfied),
    impossible: Number(impossible),
    group: {
      policy,
      n: Number(n ?? 0),
      succeeded: Number(succeeded ?? 0),
      failed: Number(failed ?? 0),
      skipped: Number(skipped ?? 0),
      state,
    },
  };
}

/** The record of an edge; the execution's own if its flow is not known. */
function edgeKeyOf(keys: ExecKeys, { flowId }: Counters, edge: EdgeId): string {
  return flowOf(keys, flowId)?.edge(edge) ?? keys.core;
}

/** Edges that are only in `deps:unresolved`: they would keep the execution waiting. */
async function strayEdges(ports: ConsistencyPorts, keys: ExecKeys): Promise<Finding[]> {
  const findings: Finding[] = [];
  for await (const edges of membersOf(ports, {
    partition: keys.partition,
    key: keys.depsUnresolved,
    type: "set",
  })) {
    const replies = await readAll(
      ports,
      edges.map((edge) => command(keys.partition, "sismember", keys.depsAllEdges, edge)),
    );
    for (const [position, edge] of edges.entries()) {
      if (replies[position] === 0) findings.push(wrongUnresolved(keys, edge, "not applied"));
    }
  }
  return findings;
}

function compareCounters(keys: ExecKeys, counters: Counters, counts: Counts): Finding[] {
  const { group } = counters;
  const isDecidedByGroup = group.policy === "any_of" || group.policy === "quorum";
  const findings: Finding[] = [];
  const compare = (key: string, member: string, found: number, expected: number, action: string): void => {
    if (found === expected) return;
    findings.push({
      kind: "wrong_count",
      key,
      member,
      found: String(found),
      expected: `${expected}, by the dep records`,
      action,
    });
  };
  // Under any_of and quorum, only the group counts; deps:meta is not updated.
  if (!isDecidedByGroup) {
    const action = "set the count";
    compare(keys.depsMeta, "unsatisfied_required_count", counters.unsatisfied, counts.unsatisfied, action);
    compare(keys.depsMeta, "impossible_required_count", counters.impossible, counts.impossible, action);
  }
  const flow = flowOf(keys, counters.flowId);
  if (group.policy !== "" && flow !== undefined) {
    const key = flow.edgeGroup(keys.id);
    const action = isDecidedByGroup
      ? "set the count"
      : "none: deps:meta decides. FlowFabric's libraries do not reset the group in a replay";
    compare(key, "n", group.n, counts.applied, action);
    compare(key, "succeeded", group.succeeded, counts.satisfied, action);
    // A dep record does not say whether it was counted as failed or as skipped.
    compare(key, "failed", group.failed + group.skipped, counts.impossible, action);
  }
  if (counters.eligibility === "blocked_by_dependencies" && !isWaiting(counters, counts, isDecidedByGroup)) {
    findings.push({
      kind: "stuck",
      key: keys.core,
      member: "",
      found: "an execution that waits for dependencies",
      expected: "another state, since no dependency is left that could release or skip it",
      action: "run the reconciler; if it stays, replay the upstream that is impossible",
    });
  }
  return findings;
}

/** The next edge to be resolved decides about the execution, or a later one. */
function isWaiting({ group }: Counters, counts: Counts, isDecidedByGroup: boolean): boolean {
  return counts.unsatisfied > 0 && (!isDecidedByGroup || group.state === "pending");
}

function withoutDependency(keys: ExecKeys, edge: string): Finding {
  return {
    kind: "missing_key",
    key: keys.depsAllEdges,
    member: edge,
    found: "no dep record",
    expected: "a dep record for each applied edge",
    action: "submit the flow again, or cancel the execution",
  };
}

function withoutEdge(keys: ExecKeys, key: string): Finding {
  return {
    kind: "missing_key",
    key,
    member: "",
    found: "no edge record",
    expected: `an edge record, since ${keys.id} has this dependency`,
    action: "submit the flow again, or cancel the execution",
  };
}

function wrongUnresolved(keys: ExecKeys, edge: string, state: string): Finding {
  const isOpen = state === "unsatisfied";
  return {
    kind: isOpen ? "missing_entry" : "stale_entry",
    key: keys.depsUnresolved,
    member: edge,
    found: isOpen ? "no entry" : "an entry",
    expected: isOpen
      ? "an entry, since the dep record is unsatisfied"
      : `no entry, since the edge is ${state}`,
    action: isOpen ? "add the entry" : "remove the entry",
  };
}
