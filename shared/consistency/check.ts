/**
 * Compares every index with the records, every record with the indexes, and counters with what they count (contract,
 * sections 3, 4, 7, 10, 11, 13 and 14).
 *
 * It reads only, in pages, and works on a live system: a finding is checked a second time, and counts only if nothing
 * that it depends on changed meanwhile. What it accepts because the contract allows it:
 *
 * - A lease that ran out keeps its entries in `lease_expiry`, `active` and the worker's set; a revoked one only that in
 *   `active`. The score in `active` is the expiry at the claim.
 * - Under `any_of` and `quorum`, deps:meta is not updated.
 * - A flow that is being purged, and a flow whose members have all ended that is not in `flow_index`.
 * - A missing attempt timeout or deadline: no field of the record keeps it.
 */

import { checkDependencies } from "#shared/consistency/check-dependencies.ts";
import { checkFlow } from "#shared/consistency/check-flow.ts";
import { checkExecutionIndex, checkFlowIndex, checkPendingGroups } from "#shared/consistency/check-index.ts";
import { checkRecords } from "#shared/consistency/check-record.ts";
import type { Finding } from "#shared/consistency/finding.ts";
import { type Collection, type ConsistencyPorts, keysLike } from "#shared/consistency/read.ts";
import { type Partition, parseExecutionId, parseFlowId } from "#shared/contract/ids.ts";
import { ExecKeys, FlowKeys, IndexKeys } from "#shared/contract/keys.ts";

export const DEFAULT_SETTLE_MS = 60_000;

export interface CheckOptions {
  /** Only this partition; by default, every partition that has keys. */
  readonly partition?: Partition;
  /** How long a flow must not have changed before its unapplied edges are reported. */
  readonly settleMs?: number;
  /** Ends the check between two pages: it then rejects with the signal's reason. */
  readonly signal?: AbortSignal;
}

/** Returns everything that is inconsistent; nothing if all is well. Throws a ValkeyError if a read fails. */
export async function checkConsistency(
  ports: ConsistencyPorts,
  { partition, settleMs = DEFAULT_SETTLE_MS, signal }: CheckOptions = {},
): Promise<Finding[]> {
  const tag = `{fp:${partition ?? "*"}}`;
  const findings = new Map<string, Finding>();
  const add = (found: readonly Finding[]): void => {
    signal?.throwIfAborted();
    for (const finding of found)
      findings.set(JSON.stringify([finding.kind, finding.key, finding.member]), finding);
  };
  for await (const names of keysLike(ports, `ff:exec:${tag}:*:core`)) {
    const page = names.flatMap(executionOf);
    add(await checkRecords(ports, page));
    add(await checkDependencies(ports, page));
  }
  for await (const names of keysLike(ports, `ff:flow:${tag}:*:core`)) {
    for (const flow of names.flatMap(flowOfKey)) add(await checkFlow(ports, flow, settleMs));
  }
  for await (const names of keysLike(ports, `ff:idx:${tag}:*`)) {
    for (const name of names) add(await checkIndex(ports, name));
  }
  return [...findings.values()];
}

function executionOf(name: string): ExecKeys[] {
  const id = parseExecutionId(/^ff:exec:\{fp:\d+\}:(.*):core$/.exec(name)?.[1]);
  // The key of an execution under the tag of another partition is no record.
  return id.ok && new ExecKeys(id.value).core === name ? [new ExecKeys(id.value)] : [];
}

function flowOfKey(name: string): FlowKeys[] {
  const [, partition, text] = /^ff:flow:\{fp:(\d+)\}:(.*):core$/.exec(name) ?? [];
  const id = parseFlowId(text);
  if (!id.ok) return [];
  const keys = new FlowKeys(Number(partition) as Partition, id.value);
  // Release 0.1 built keys from flow ids as they were spelled: such a flow is not checked.
  return keys.core === name ? [keys] : [];
}

const LANE_INDEX = /^lane:.*:(?:eligible|delayed|active|terminal|suspended|blocked:[a-z]+)$/;
const WORKER_INDEX = /^worker:.*:leases$/;

async function checkIndex(ports: ConsistencyPorts, key: string): Promise<readonly Finding[]> {
  const [, number, name = ""] = /^ff:idx:\{fp:(\d+)\}:(.*)$/.exec(key) ?? [];
  const partition = Number(number) as Partition;
  const index: Collection = { partition, key, type: "zset" };
  if (LANE_INDEX.test(name)) return checkExecutionIndex(ports, index);
  if (WORKER_INDEX.test(name)) return checkExecutionIndex(ports, { ...index, type: "set" });
  const keys = new IndexKeys(partition);
  switch (key) {
    case keys.leaseExpiry:
    case keys.attemptTimeout:
    case keys.executionDeadline:
    case keys.suspensionTimeout:
      return checkExecutionIndex(ports, index);
    case keys.allExecutions:
      return checkExecutionIndex(ports, { ...index, type: "set" });
    case keys.flowIndex:
      return checkFlowIndex(ports, { ...index, type: "set" });
    case keys.flowsCreated:
    case keys.cancelBacklog:
    case keys.flowsEnded:
      return checkFlowIndex(ports, index);
    case keys.pendingCancelGroups:
      return checkPendingGroups(ports, partition);
    default:
      return [];
  }
}
