/** Checks a random sample of a deployment, in a bounded number of reads. `checkConsistency` checks everything. */

import { DEFAULT_SETTLE_MS } from "#shared/consistency/check.ts";
import { checkDependencies } from "#shared/consistency/check-dependencies.ts";
import { checkFlow } from "#shared/consistency/check-flow.ts";
import { checkExecutionEntries } from "#shared/consistency/check-index.ts";
import { checkRecords } from "#shared/consistency/check-record.ts";
import type { Finding } from "#shared/consistency/finding.ts";
import { type Collection, type ConsistencyPorts, readAll, textsOf } from "#shared/consistency/read.ts";
import { command } from "#shared/contract/command.ts";
import { type LaneId, type Partition, parseExecutionId, parseFlowId } from "#shared/contract/ids.ts";
import { ExecKeys, FlowKeys, IndexKeys } from "#shared/contract/keys.ts";
import { fieldText } from "#shared/contract/record.ts";
import { chunked } from "#shared/valkey/batches.ts";

export interface SampleOptions {
  /** The partitions to choose from. */
  readonly partitions: readonly Partition[];
  /** The lanes whose indexes are sampled. */
  readonly lanes: readonly LaneId[];
  /** Partitions to check at most. */
  readonly maxPartitions: number;
  /** Executions, and entries of each index, to check in each partition at most. */
  readonly perPartition: number;
  /** Flows to check in each partition at most. */
  readonly flowsPerPartition: number;
  /** A larger flow is not checked: its check reads all its members. */
  readonly maxFlowMembers: number;
  /** Ends the check between two partitions. What was found until then is returned. */
  readonly isOver: () => boolean;
}

export interface Sample {
  readonly findings: readonly Finding[];
  readonly partitions: number;
  readonly executions: number;
  readonly flows: number;
  /** Partitions that cannot be read, for example because their node is down. */
  readonly unread: number;
  /** The lanes of the executions that were checked. */
  readonly lanes: ReadonlySet<string>;
}

/** Returns what is inconsistent in a random sample. Reads only. Throws a ValkeyError if a read fails. */
export async function checkSample(ports: ConsistencyPorts, options: SampleOptions): Promise<Sample> {
  const findings = new Map<string, Finding>();
  const lanes = new Set<string>();
  const total = { partitions: 0, executions: 0, flows: 0 };
  const { used, unread } = await usedPartitions(ports, options);
  for (const partition of used) {
    if (options.isOver()) break;
    const checked = await checkPartition(ports, partition, options, lanes);
    for (const finding of checked.findings)
      findings.set(JSON.stringify([finding.kind, finding.key, finding.member]), finding);
    total.partitions += 1;
    total.executions += checked.executions;
    total.flows += checked.flows;
  }
  return { findings: [...findings.values()], ...total, unread, lanes };
}

/** Partitions that have executions, in random order, and how many cannot be read. */
async function usedPartitions(
  { valkey }: ConsistencyPorts,
  { partitions, maxPartitions }: SampleOptions,
): Promise<{ readonly used: readonly Partition[]; readonly unread: number }> {
  const used: { readonly partition: Partition; readonly order: number }[] = [];
  let unread = 0;
  for (const some of chunked(partitions)) {
    const results = await valkey.pipelined(
      some.map((partition) => command(partition, "scard", new IndexKeys(partition).allExecutions)),
    );
    for (const [position, partition] of some.entries()) {
      const result = results[position];
      if (result?.ok !== true) unread += 1;
      else if (Number(result.value) > 0) used.push({ partition, order: Math.random() });
    }
  }
  const chosen = used.toSorted((left, right) => left.order - right.order).slice(0, maxPartitions);
  return { used: chosen.map(({ partition }) => partition), unread };
}

async function checkPartition(
  ports: ConsistencyPorts,
  partition: Partition,
  options: SampleOptions,
  lanes: Set<string>,
): Promise<{ readonly findings: Finding[]; readonly executions: number; readonly flows: number }> {
  const index = new IndexKeys(partition);
  const indexes = indexesOf(index, options.lanes);
  const [executionIds, flowIds, ...members] = await readAll(ports, [
    command(partition, "srandmember", index.allExecutions, options.perPartition),
    command(partition, "srandmember", index.flowIndex, options.flowsPerPartition),
    ...indexes.map(({ key, type }) =>
      command(partition, type === "set" ? "srandmember" : "zrandmember", key, options.perPartition),
    ),
  ]);
  const findings: Finding[] = [];
  const executions = textsOf(executionIds).flatMap((text) => {
    const id = parseExecutionId(text);
    return id.ok ? [new ExecKeys(id.value)] : [];
  });
  const names = await readAll(
    ports,
    executions.map(({ core }) => command(partition, "hget", core, "lane_id")),
  );
  for (const name of names.map(fieldText)) if (name !== "") lanes.add(name);
  findings.push(...(await checkRecords(ports, executions)), ...(await checkDependencies(ports, executions)));
  for (const [position, one] of indexes.entries()) {
    findings.push(...(await checkExecutionEntries(ports, one, textsOf(members[position]))));
  }
  const flows = textsOf(flowIds).flatMap((text) => {
    const id = parseFlowId(text);
    return id.ok && id.value === text ? [new FlowKeys(partition, id.value)] : [];
  });
  const sizes = await readAll(
    ports,
    flows.map(({ members: set }) => command(partition, "scard", set)),
  );
  const small = flows.filter((_, position) => Number(sizes[position]) <= options.maxFlowMembers);
  for (const flow of small) {
    findings.push(...(await checkFlow(ports, flow, DEFAULT_SETTLE_MS)));
  }
  return { findings, executions: executions.length, flows: small.length };
}

/** The indexes of executions in a partition. */
function indexesOf(index: IndexKeys, lanes: readonly LaneId[]): Collection[] {
  const { partition } = index;
  const zset = (key: string): Collection => ({ partition, key, type: "zset" });
  return [
    { partition, key: index.allExecutions, type: "set" },
    ...[index.leaseExpiry, index.attemptTimeout, index.executionDeadline, index.suspensionTimeout].map(zset),
    ...lanes.flatMap((lane) => {
      const keys = index.lane(lane);
      return [
        keys.eligible,
        keys.delayed,
        keys.active,
        keys.terminal,
        keys.suspended,
        keys.blockedDependencies,
        keys.blockedBudget,
        keys.blockedQuota,
        keys.blockedRoute,
        keys.blockedOperator,
      ].map(zset);
    }),
  ];
}
