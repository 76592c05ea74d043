/** Compares the record of a flow with its members and its edges. */

import { confirmed, type Finding } from "#shared/consistency/finding.ts";
import {
  type ConsistencyPorts,
  membersOf,
  membersOfEach,
  type OwnedSet,
  readAll,
  readOfEach,
  textsOf,
} from "#shared/consistency/read.ts";
import { command } from "#shared/contract/command.ts";
import {
  type EdgeId,
  type ExecutionId,
  parseEdgeId,
  parseExecutionId,
  partitionOf,
} from "#shared/contract/ids.ts";
import { ExecKeys, type FlowKeys, IndexKeys } from "#shared/contract/keys.ts";

/** The fields of `readState`, in order. */
interface FlowState {
  readonly exists: boolean;
  readonly isPurged: boolean;
  readonly nodeCount: number;
  readonly edgeCount: number;
  /** Milliseconds since the last member or edge was added. */
  readonly settledMs: number;
  readonly isIndexed: boolean;
  readonly hasPendingCancels: boolean;
  readonly isInBacklog: boolean;
  readonly hasEnded: boolean;
  /** The counts of Sluice's library, by the field of the summary; undefined for a flow that it does not count. */
  readonly summary: Readonly<Record<string, number>> | undefined;
}

/** The states in which members end, each with a count in the summary. */
const ENDED_STATES = ["completed", "failed", "cancelled", "expired", "skipped"];
const SUMMARY_FIELDS = ["members_open", "total_members", ...ENDED_STATES.map((state) => `members_${state}`)];

/**
 * Returns what is wrong with a flow. Reads only. Edges that are staged but not applied are reported once the flow has not
 * changed for `settleMs`: before, a client may still be submitting it.
 */
export async function checkFlow(
  ports: ConsistencyPorts,
  flow: FlowKeys,
  settleMs: number,
): Promise<readonly Finding[]> {
  return confirmed(
    () => readState(ports, flow),
    async (values) => {
      const [time] = await readAll(ports, [command(flow.partition, "time")]);
      const [seconds, microseconds] = textsOf(time).map(Number);
      const state = stateOf(values, (seconds ?? 0) * 1_000 + Math.floor((microseconds ?? 0) / 1_000));
      // A flow that is being purged loses its keys one after the other.
      if (!state.exists || state.isPurged) return [];
      const found = await readMembers(ports, flow, state.settledMs >= settleMs);
      const { findings, members, edges, open } = found;
      return [
        ...findings,
        ...wrongCount(flow.core, "node_count", state.nodeCount, members),
        ...wrongCount(flow.core, "edge_count", state.edgeCount, edges),
        ...wrongSummary(flow, state, found),
        ...wrongIndexes(flow, state, open),
      ];
    },
  );
}

async function readState(ports: ConsistencyPorts, flow: FlowKeys): Promise<string[]> {
  const { partition } = flow;
  const index = new IndexKeys(partition);
  const [core, ...others] = await readAll(ports, [
    command(
      partition,
      "hmget",
      flow.core,
      "flow_id",
      "node_count",
      "edge_count",
      "graph_revision",
      "public_flow_state",
      "last_mutation_at",
    ),
    command(partition, "exists", flow.purged),
    command(partition, "sismember", index.flowIndex, flow.id),
    command(partition, "exists", flow.pendingCancels),
    command(partition, "zscore", index.cancelBacklog, flow.id),
    command(partition, "zscore", index.flowsEnded, flow.id),
    command(partition, "hmget", flow.summary, ...SUMMARY_FIELDS),
  ]);
  const summary = textsOf(others.pop());
  return [...textsOf(core), ...others.map((value) => String(value ?? "")), ...summary];
}

function stateOf(values: readonly string[], nowMs: number): FlowState {
  const [
    id,
    nodeCount,
    edgeCount,
    ,
    ,
    lastMutationAt,
    purged,
    indexed,
    pendingCancels,
    backlog,
    ended,
    ...counts
  ] = values;
  const isCounted = counts[0] !== "";
  return {
    exists: id !== "",
    isPurged: purged === "1",
    nodeCount: Number(nodeCount),
    edgeCount: Number(edgeCount),
    settledMs: nowMs - Number(lastMutationAt),
    isIndexed: indexed === "1",
    hasPendingCancels: pendingCancels === "1",
    isInBacklog: backlog !== "",
    hasEnded: ended !== "",
    summary: isCounted
      ? Object.fromEntries(SUMMARY_FIELDS.map((field, position) => [field, Number(counts[position])]))
      : undefined,
  };
}

interface Members {
  readonly findings: Finding[];
  readonly members: number;
  readonly edges: number;
  /** Members that have not ended. */
  readonly open: number;
  /** The number of ended members, by their public state. */
  readonly ended: ReadonlyMap<string, number>;
}

async function readMembers(ports: ConsistencyPorts, flow: FlowKeys, isSettled: boolean): Promise<Members> {
  const { partition } = flow;
  const findings: Finding[] = [];
  const seen = new Set<string>();
  const ended = new Map<string, number>();
  let [edges, open] = [0, 0];
  for await (const page of membersOf(ports, { partition, key: flow.members, type: "set" })) {
    const members = page.flatMap((member) => {
      const id = parseExecutionId(member);
      if (!id.ok || seen.has(member)) return [];
      seen.add(member);
      return [new ExecKeys(id.value)];
    });
    const replies = await readOfEach(ports, members, ({ id, core }) => [
      command(partitionOf(id), "hmget", core, "execution_id", "flow_id", "lifecycle_phase", "public_state"),
      command(partition, "scard", flow.outgoing(id)),
      command(partition, "scard", flow.incoming(id)),
    ]);
    const sets: OwnedSet<Adjacency>[] = [];
    for (const [position, keys] of members.entries()) {
      const [core, outgoing, incoming] = replies[position] ?? [];
      const [id, flowId, phase, publicState = ""] = textsOf(core);
      if (id === "") findings.push(withoutRecord(flow, keys));
      else if (flowId !== flow.id) findings.push(ofAnotherFlow(flow, keys, flowId ?? ""));
      if (phase === "terminal") ended.set(publicState, (ended.get(publicState) ?? 0) + 1);
      else if (id !== "") open += 1;
      edges += Number(outgoing);
      sets.push(
        adjacency(flow, keys.id, "out", Number(outgoing)),
        adjacency(flow, keys.id, "in", Number(incoming)),
      );
    }
    for await (const some of membersOfEach(ports, sets)) {
      findings.push(...(await checkEdges(ports, flow, some, isSettled)));
    }
  }
  return { findings, members: seen.size, edges, open, ended };
}

/** The incoming or outgoing edges of a member. */
interface Adjacency {
  readonly id: ExecutionId;
  readonly direction: "in" | "out";
  readonly key: string;
}

function adjacency(
  flow: FlowKeys,
  id: ExecutionId,
  direction: "in" | "out",
  size: number,
): OwnedSet<Adjacency> {
  const key = direction === "out" ? flow.outgoing(id) : flow.incoming(id);
  return { owner: { id, direction, key }, set: { partition: flow.partition, key, type: "set" }, size };
}

async function checkEdges(
  ports: ConsistencyPorts,
  flow: FlowKeys,
  entries: readonly { readonly owner: Adjacency; readonly member: string }[],
  isSettled: boolean,
): Promise<Finding[]> {
  const { partition } = flow;
  const findings: Finding[] = [];
  const edges = entries.flatMap(({ owner, member }) => {
    const edge = parseEdgeId(member);
    return edge.ok ? [{ owner, edge: edge.value }] : [];
  });
  const ends = await readAll(
    ports,
    edges.map(({ edge }) =>
      command(partition, "hmget", flow.edge(edge), "upstream_execution_id", "downstream_execution_id"),
    ),
  );
  const sound = edges.flatMap(({ owner, edge }, position) => {
    const [upstream = "", downstream = ""] = textsOf(ends[position]);
    const [own, other] = owner.direction === "out" ? [upstream, downstream] : [downstream, upstream];
    const otherId = parseExecutionId(other);
    if (own === owner.id && otherId.ok) return [{ owner, edge, other: otherId.value }];
    findings.push(wrongEdge(flow, owner.key, edge, own));
    return [];
  });
  const oppositeOf = ({ owner, other }: (typeof sound)[number]): string =>
    owner.direction === "out" ? flow.incoming(other) : flow.outgoing(other);
  const replies = await readOfEach(ports, sound, (one) => {
    const child = new ExecKeys(one.owner.id);
    const inOpposite = command(partition, "sismember", oppositeOf(one), one.edge);
    return one.owner.direction === "out"
      ? [inOpposite]
      : [inOpposite, command(child.partition, "exists", child.dep(one.edge))];
  });
  for (const [position, one] of sound.entries()) {
    const [inOpposite, applied] = replies[position] ?? [];
    if (inOpposite === 0) findings.push(notInOpposite(oppositeOf(one), one.owner.key, one.edge));
    if (applied === 0 && isSettled) findings.push(notApplied(flow, one.owner.id, one.edge));
  }
  return findings;
}

function wrongSummary(
  flow: FlowKeys,
  { summary, hasEnded }: FlowState,
  { members, open, ended }: Members,
): Finding[] {
  if (summary === undefined) return [];
  const expected: Record<string, number> = { members_open: open, total_members: members };
  for (const state of ENDED_STATES) expected[`members_${state}`] = ended.get(state) ?? 0;
  const findings = SUMMARY_FIELDS.flatMap((field) =>
    wrongCount(flow.summary, field, summary[field] ?? 0, expected[field] ?? 0),
  );
  const key = new IndexKeys(flow.partition).flowsEnded;
  const about = { key, member: flow.id };
  const isOver = open === 0 && members > 0;
  if (isOver && !hasEnded) {
    const why = "an entry, since all members have ended";
    findings.push({
      kind: "missing_entry",
      ...about,
      found: "no entry",
      expected: why,
      action: "add the entry",
    });
  }
  if (!isOver && hasEnded) {
    const why = `no entry, since ${open} members have not ended`;
    findings.push({
      kind: "stale_entry",
      ...about,
      found: "an entry",
      expected: why,
      action: "remove the entry",
    });
  }
  return findings;
}

function wrongCount(key: string, member: string, found: number, expected: number): Finding[] {
  if (found === expected) return [];
  return [
    {
      kind: "wrong_count",
      key,
      member,
      found: String(found),
      expected: `${expected}, by the members of the flow`,
      action: "set the count",
    },
  ];
}

function wrongIndexes(flow: FlowKeys, state: FlowState, open: number): Finding[] {
  const index = new IndexKeys(flow.partition);
  const missing = (key: string, why: string): Finding => ({
    kind: "missing_entry",
    key,
    member: flow.id,
    found: "no entry",
    expected: `an entry, since ${why}`,
    action: "add the entry",
  });
  const findings: Finding[] = [];
  // FlowFabric's projector removes a flow whose members have all ended.
  if (!state.isIndexed && open > 0) findings.push(missing(index.flowIndex, `${open} members have not ended`));
  if (state.hasPendingCancels && !state.isInBacklog) {
    findings.push(missing(index.cancelBacklog, "the flow has members to cancel"));
  }
  if (!state.hasPendingCancels && state.isInBacklog) {
    findings.push({
      kind: "stale_entry",
      key: index.cancelBacklog,
      member: flow.id,
      found: "an entry",
      expected: "no entry, since the flow has no members to cancel",
      action: "remove the entry",
    });
  }
  return findings;
}

function withoutRecord(flow: FlowKeys, keys: ExecKeys): Finding {
  return {
    kind: "missing_key",
    key: keys.core,
    member: "",
    found: "no record",
    expected: `a record, since ${flow.members} names the execution`,
    action: "none if FlowFabric's trimmer deleted the execution; else restore it from a backup",
  };
}

function ofAnotherFlow(flow: FlowKeys, keys: ExecKeys, found: string): Finding {
  return {
    kind: "wrong_field",
    key: keys.core,
    member: "flow_id",
    found: found === "" ? "no flow" : found,
    expected: `${flow.id}, since ${flow.members} names the execution`,
    action: "add the execution to the flow again",
  };
}

function wrongEdge(flow: FlowKeys, key: string, edge: EdgeId, found: string): Finding {
  return {
    kind: "stale_entry",
    key,
    member: edge,
    found: found === "" ? "an entry without an edge record" : `an entry of an edge of ${found}`,
    expected: `an entry only if ${flow.edge(edge)} names this execution`,
    action: "submit the flow again, or remove the entry",
  };
}

function notInOpposite(key: string, from: string, edge: EdgeId): Finding {
  return {
    kind: "missing_entry",
    key,
    member: edge,
    found: "no entry",
    expected: `an entry, since ${from} has one`,
    action: "add the entry",
  };
}

function notApplied(flow: FlowKeys, child: ExecutionId, edge: EdgeId): Finding {
  return {
    kind: "unapplied_edge",
    key: flow.incoming(child),
    member: edge,
    found: "an edge that is staged but not applied",
    expected: `a dep record of ${child}`,
    action: "submit the flow again: its submission did not finish",
  };
}
