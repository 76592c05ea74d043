/** Compares the entries of an index with the records that they name. */

import { readRecord } from "#shared/consistency/check-record.ts";
import { expectedEntries, recordOf } from "#shared/consistency/entries.ts";
import { confirmed, type Finding } from "#shared/consistency/finding.ts";
import {
  type Collection,
  type ConsistencyPorts,
  membersOf,
  readAll,
  readEntry,
  textsOf,
} from "#shared/consistency/read.ts";
import { command, type ValkeyCommand } from "#shared/contract/command.ts";
import { type Partition, parseExecutionId, parseFlowId, partitionOf } from "#shared/contract/ids.ts";
import { ExecKeys, FlowKeys, IndexKeys } from "#shared/contract/keys.ts";

/** Returns the entries of an index of executions that their records do not allow. Reads only. */
export async function checkExecutionIndex(ports: ConsistencyPorts, index: Collection): Promise<Finding[]> {
  const findings: Finding[] = [];
  for await (const members of membersOf(ports, index)) {
    findings.push(...(await checkExecutionEntries(ports, index, members)));
  }
  return findings;
}

/** As `checkExecutionIndex`, for some members of the index. */
export async function checkExecutionEntries(
  ports: ConsistencyPorts,
  index: Collection,
  members: readonly string[],
): Promise<Finding[]> {
  const findings: Finding[] = [];
  const executions = members.flatMap((member) => {
    const id = parseExecutionId(member);
    if (id.ok && partitionOf(id.value) === index.partition) return [new ExecKeys(id.value)];
    findings.push(stale(index.key, member, "an execution of its partition"));
    return [];
  });
  const records = await readAll(ports, executions.map(readRecord));
  for (const [position, keys] of executions.entries()) {
    if (whyNotAllowed(index, keys, textsOf(records[position])) === undefined) continue;
    findings.push(
      ...(await confirmEntry(ports, index, keys.id, readRecord(keys), (values) =>
        whyNotAllowed(index, keys, values),
      )),
    );
  }
  return findings;
}

/** Returns what the index should hold in place of this entry; undefined if the record allows the entry. */
function whyNotAllowed({ key }: Collection, keys: ExecKeys, values: readonly string[]): string | undefined {
  const record = recordOf(values);
  if (record === undefined) return "an execution that has a record";
  const expected = expectedEntries(keys.id, record);
  // A record in an unknown state is reported once, with the record.
  if (!expected.ok || expected.allowed.has(key)) return undefined;
  return `no entry, since the record says ${record.public_state}, ${record.eligibility_state}, ${record.ownership_state}`;
}

/** Returns the flows of a set or zset that have no record. Reads only. */
export async function checkFlowIndex(ports: ConsistencyPorts, index: Collection): Promise<Finding[]> {
  const findings: Finding[] = [];
  for await (const members of membersOf(ports, index)) {
    const flows = members.flatMap((member) => {
      const id = parseFlowId(member);
      if (!id.ok) findings.push(stale(index.key, member, "the id of a flow"));
      // Release 0.1 built keys from flow ids as they were spelled.
      return id.ok && id.value === member ? [new FlowKeys(index.partition, id.value)] : [];
    });
    const readFlow = ({ core }: FlowKeys) => command(index.partition, "hmget", core, "flow_id");
    const records = await readAll(ports, flows.map(readFlow));
    for (const [position, flow] of flows.entries()) {
      const why = ([id]: readonly string[]) => (id === "" ? "a flow that has a record" : undefined);
      if (why(textsOf(records[position])) === undefined) continue;
      findings.push(...(await confirmEntry(ports, index, flow.id, readFlow(flow), why)));
    }
  }
  return findings;
}

/** Returns the entries of `pending_cancel_groups` whose group is not marked. Reads only. */
export async function checkPendingGroups(ports: ConsistencyPorts, partition: Partition): Promise<Finding[]> {
  const index: Collection = { partition, key: new IndexKeys(partition).pendingCancelGroups, type: "set" };
  const findings: Finding[] = [];
  for await (const members of membersOf(ports, index)) {
    for (const member of members) {
      const separator = member.indexOf("|");
      const flow = parseFlowId(member.slice(0, separator));
      const child = parseExecutionId(member.slice(separator + 1));
      if (!flow.ok || !child.ok) {
        findings.push(stale(index.key, member, "a flow and an execution, separated by |"));
        continue;
      }
      const group = new FlowKeys(partition, flow.value).edgeGroup(child.value);
      const readFlag = command(partition, "hmget", group, "cancel_siblings_pending_flag");
      const why = ([flag]: readonly string[]) =>
        flag === "true" ? undefined : "a group that is marked as pending";
      findings.push(...(await confirmEntry(ports, index, member, readFlag, why)));
    }
  }
  return findings;
}

/** Reports an entry if, by the reply of `read`, something else is expected and the entry still exists. */
function confirmEntry(
  ports: ConsistencyPorts,
  index: Collection,
  member: string,
  read: ValkeyCommand,
  whyNot: (values: readonly string[]) => string | undefined,
): Promise<readonly Finding[]> {
  return confirmed(
    async () => textsOf((await readAll(ports, [read]))[0]),
    async (values) => {
      const expected = whyNot(values);
      if (expected === undefined) return [];
      const [entry] = await readAll(ports, [readEntry(index, member)]);
      return entry === null || entry === 0 ? [] : [stale(index.key, member, expected)];
    },
  );
}

function stale(key: string, member: string, expected: string): Finding {
  return {
    kind: "stale_entry",
    key,
    member,
    found: "an entry",
    expected,
    action: "remove the entry; FlowFabric's libraries leave some behind, and its scanners skip them",
  };
}
