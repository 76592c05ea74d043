/** Compares the records of executions with the indexes, their leases and their flows. */

import {
  type Entry,
  type ExecutionRecord,
  expectedEntries,
  RECORD_FIELDS,
  recordOf,
} from "#shared/consistency/entries.ts";
import { confirmed, type Finding } from "#shared/consistency/finding.ts";
import { flowOf } from "#shared/consistency/flow-of.ts";
import { type ConsistencyPorts, readAll, readEntry, readOfEach, textsOf } from "#shared/consistency/read.ts";
import { command, type ValkeyCommand } from "#shared/contract/command.ts";
import type { ExecKeys, FlowKeys } from "#shared/contract/keys.ts";
import { fieldText } from "#shared/contract/record.ts";

/** The fields that `lease:current` repeats, and their names in the record. */
const LEASE_FIELDS = {
  lease_id: "current_lease_id",
  lease_epoch: "current_lease_epoch",
  attempt_id: "current_attempt_id",
  worker_id: "current_worker_id",
  worker_instance_id: "current_worker_instance_id",
  expires_at: "lease_expires_at",
} as const;

/** Returns what is wrong with executions whose records were found. Reads only. */
export async function checkRecords(ports: ConsistencyPorts, page: readonly ExecKeys[]): Promise<Finding[]> {
  const inspected = await inspect(ports, page);
  const findings: Finding[] = [];
  for (const [position, keys] of page.entries()) {
    if (inspected[position]?.length === 0) continue;
    findings.push(
      ...(await confirmed(
        async () => textsOf((await readAll(ports, [readRecord(keys)]))[0]),
        async () => (await inspect(ports, [keys]))[0] ?? [],
      )),
    );
  }
  return findings;
}

export function readRecord(keys: ExecKeys): ValkeyCommand {
  return command(keys.partition, "hmget", keys.core, ...RECORD_FIELDS);
}

/** One execution, and what was read of it. */
interface Inspected {
  readonly keys: ExecKeys;
  readonly record: ExecutionRecord;
  readonly required: readonly Entry[];
  readonly flow: FlowKeys | undefined;
}

/** Returns what seems to be wrong with each execution. A concurrent change may be the reason. */
async function inspect(ports: ConsistencyPorts, page: readonly ExecKeys[]): Promise<Finding[][]> {
  const cores = await readAll(ports, page.map(readRecord));
  const findings = page.map((keys, position) => stateFindings(keys, textsOf(cores[position])));
  const items = page.flatMap((keys, position): (Inspected & { position: number })[] => {
    const record = recordOf(textsOf(cores[position]));
    const expected = record === undefined ? undefined : expectedEntries(keys.id, record);
    if (record === undefined || !expected?.ok) return [];
    return [{ keys, record, required: expected.required, flow: flowOf(keys, record.flow_id), position }];
  });
  const [first] = items;
  if (first === undefined) return findings;
  const [time] = await readAll(ports, [command(first.keys.partition, "time")]);
  const nowMs = Number(textsOf(time)[0]) * 1_000;
  const replies = await readOfEach(ports, items, readsOf);
  for (const [at, item] of items.entries()) {
    const own = replies[at] ?? [];
    const isMember = item.flow === undefined || own.at(-1) !== 0;
    findings[item.position] = [
      ...compare(item, own, nowMs),
      ...(isMember || item.flow === undefined ? [] : await lookForFlow(ports, item.keys, item.flow)),
    ];
  }
  return findings;
}

function stateFindings(keys: ExecKeys, values: readonly string[]): Finding[] {
  const record = recordOf(values);
  // Without any field, the record was deleted since its key was found.
  if (record === undefined) return values.some((value) => value !== "") ? [incomplete(keys)] : [];
  const expected = expectedEntries(keys.id, record);
  return expected.ok ? [] : [invalidState(keys, expected.reason)];
}

function readsOf({ keys, required, flow }: Inspected): ValkeyCommand[] {
  const { partition } = keys;
  return [
    command(partition, "hmget", keys.leaseCurrent, ...Object.keys(LEASE_FIELDS)),
    ...required.map((entry) => readEntry({ partition, ...entry }, keys.id)),
    ...(flow === undefined ? [] : [command(partition, "sismember", flow.members, keys.id)]),
  ];
}

function compare(
  { keys, record, required }: Inspected,
  replies: readonly unknown[],
  nowMs: number,
): Finding[] {
  const [lease, ...values] = replies;
  return [
    ...required.flatMap((entry, position) => compareEntry(keys, entry, values[position])),
    ...compareLease(keys, record, textsOf(lease), nowMs),
  ];
}

/** Returns why a flow does not list an execution that names it. */
async function lookForFlow(ports: ConsistencyPorts, keys: ExecKeys, flow: FlowKeys): Promise<Finding[]> {
  const [exists, isPurged] = await readAll(ports, [
    command(keys.partition, "exists", flow.core),
    command(keys.partition, "exists", flow.purged),
  ]);
  // While a flow is purged, its keys are deleted one after the other.
  if (isPurged === 1) return [];
  return [exists === 0 ? withoutFlow(keys, flow) : notAMember(keys, flow)];
}

function compareEntry(keys: ExecKeys, entry: Entry, value: unknown): Finding[] {
  const isMissing = entry.type === "set" ? value === 0 : value === null;
  const expected = entry.score === undefined ? "an entry" : `an entry with score ${entry.score}`;
  if (isMissing) {
    return [
      {
        kind: "missing_entry",
        key: entry.key,
        member: keys.id,
        found: "no entry",
        expected: `${expected}, by the record ${keys.core}`,
        action: "add the entry, unless the record is the one that is wrong",
      },
    ];
  }
  if (entry.score === undefined || Number(fieldText(value)) === entry.score) return [];
  return [
    {
      kind: "wrong_score",
      key: entry.key,
      member: keys.id,
      found: `score ${fieldText(value)}`,
      expected: `score ${entry.score}, by the record ${keys.core}`,
      action: "set the score",
    },
  ];
}

function compareLease(
  keys: ExecKeys,
  record: ExecutionRecord,
  lease: readonly string[],
  nowMs: number,
): Finding[] {
  const exists = lease.some((value) => value !== "");
  const isLeased =
    record.ownership_state === "leased" || record.ownership_state === "lease_expired_reclaimable";
  const about = { key: keys.leaseCurrent, member: "" };
  if (!isLeased) {
    if (!exists) return [];
    return [
      {
        kind: "unexpected_key",
        ...about,
        found: "a lease",
        expected: `no lease, since the record says ${record.public_state}, ${record.ownership_state}`,
        action: "delete the key; FlowFabric's libraries leave it behind when they skip a running execution",
      },
    ];
  }
  if (!exists) {
    // A renewed lease has an expiry of its own, some seconds after the lease's.
    if (record.ownership_state !== "leased" || Number(record.lease_expires_at) <= nowMs) return [];
    return [
      {
        kind: "missing_key",
        ...about,
        found: "no lease",
        expected: `the lease ${record.current_lease_id}, by the record ${keys.core}`,
        action: "revoke the lease, so that another worker takes the execution over",
      },
    ];
  }
  return Object.entries(LEASE_FIELDS).flatMap(([name, recordName], position): Finding[] =>
    lease[position] === record[recordName]
      ? []
      : [
          {
            kind: "wrong_field",
            key: keys.leaseCurrent,
            member: name,
            found: lease[position] ?? "",
            expected: `${record[recordName]}, as ${recordName} of the record`,
            action: "revoke the lease, so that another worker takes the execution over",
          },
        ],
  );
}

function withoutFlow(keys: ExecKeys, flow: FlowKeys): Finding {
  return {
    kind: "missing_key",
    key: flow.core,
    member: "",
    found: "no record of the flow",
    expected: `a record, since ${keys.id} names the flow`,
    action: "restore the flow from a backup, or cancel the execution",
  };
}

function notAMember(keys: ExecKeys, flow: FlowKeys): Finding {
  return {
    kind: "missing_entry",
    key: flow.members,
    member: keys.id,
    found: "no entry",
    expected: `an entry, since the record ${keys.core} names the flow`,
    action: "add the execution to the flow again",
  };
}

function incomplete(keys: ExecKeys): Finding {
  return {
    kind: "invalid_record",
    key: keys.core,
    member: "execution_id",
    found: "no execution_id",
    expected: keys.id,
    action: "delete the key: it is the remainder of a deleted record",
  };
}

function invalidState(keys: ExecKeys, reason: string): Finding {
  return {
    kind: "invalid_record",
    key: keys.core,
    member: "",
    found: reason,
    expected: "a state of the contract, section 4",
    action: "cancel the execution",
  };
}
