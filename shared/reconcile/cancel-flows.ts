/** Cancels members of cancelled flows that the caller of the cancellation has left. */

import { cancelMembers, type MemberResult } from "#shared/cancellation/cancel-members.ts";
import { command, type Pipelines, type ValkeyCommand, type ValkeyResult } from "#shared/contract/command.ts";
import { parseStoredFlowId } from "#shared/contract/ids.ts";
import type { FlowKeys, IndexKeys } from "#shared/contract/keys.ts";
import { fieldText } from "#shared/contract/record.ts";
import { isRecordError, ValkeyError } from "#shared/errors.ts";
import type { IndexEntry } from "#shared/reconcile/indexes.ts";
import { failed, KEPT, type Outcome, PROCESSED, UNFINISHED } from "#shared/reconcile/outcome.ts";
import type { TaskRun } from "#shared/reconcile/run.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { noResult } from "#shared/valkey/batches.ts";

/** Members of one flow that are cancelled before the next flow has its turn. */
const PAGE = 500;
const DEFAULT_REASON = "flow_cancelled";

interface ListedFlow {
  readonly entry: IndexEntry;
  readonly flow: FlowKeys;
  readonly index: IndexKeys;
}

/**
 * Cancels a page of members of each flow: one outcome per entry, in their order. No completion is sent, because every child
 * is a member of the same flow. Throws SweepStopped.
 */
export async function cancelFlows(
  run: TaskRun,
  valkey: Pipelines,
  entries: readonly IndexEntry[],
): Promise<Outcome[]> {
  const flows = entries.map((entry) => listedFlow(run, entry));
  const replies = await valkey.pipelined(flows.flatMap((flow) => (flow === undefined ? [] : readsOf(flow))));
  const outcomes: Outcome[] = [];
  let position = 0;
  for (const [number, flow] of flows.entries()) {
    const entry = entries[number];
    if (flow === undefined) {
      if (entry !== undefined) outcomes.push(await remove(run, valkey, entry, []));
      continue;
    }
    const [core = noResult(), members = noResult()] = replies.slice(position, position + READS);
    position += READS;
    outcomes.push(await cancelPage(run, valkey, flow, core, members));
  }
  return outcomes;
}

/** Undefined, and reported, if the entry is no flow id. */
function listedFlow(run: TaskRun, entry: IndexEntry): ListedFlow | undefined {
  const { member, index } = entry;
  const id = parseStoredFlowId(member);
  if (!id.ok) {
    run.reportUnreadable("entry of cancel_backlog removed: not a flow id", { reason: id.error.message });
    return undefined;
  }
  const { router } = run.ports;
  const flow = router.flowKeys(id.value, index.partition);
  return { entry, flow, index: router.indexKeys(index.partition) };
}

const READS = 2;

function readsOf({ flow }: ListedFlow): ValkeyCommand[] {
  return [
    command(flow.partition, "hmget", flow.core, "cancel_reason", "public_flow_state"),
    command(flow.partition, "srandmember", flow.pendingCancels, PAGE),
  ];
}

async function cancelPage(
  run: TaskRun,
  valkey: Pipelines,
  { entry, flow, index }: ListedFlow,
  core: ValkeyResult,
  pending: ValkeyResult,
): Promise<Outcome> {
  for (const result of [core, pending]) {
    if (result.ok) continue;
    if (!isRecordError(result.error)) return failed(result.error);
    run.reportUnreadable("cancelled flow skipped: its record cannot be read", {
      flow_id: flow.id,
      reason: result.error.message,
    });
    return KEPT;
  }
  const [reason = "", state = ""] = core.ok && Array.isArray(core.value) ? core.value.map(fieldText) : [];
  if (reason === "" && state === "") return remove(run, valkey, entry, [flow.pendingCancels]);
  const members = pending.ok && Array.isArray(pending.value) ? pending.value.map(fieldText) : [];
  if (members.length === 0) return remove(run, valkey, entry, []);
  await run.beginStep();
  const results = await cancelMembers(
    { valkey, router: run.ports.router },
    flow,
    index,
    members,
    reason === "" ? DEFAULT_REASON : reason,
  );
  run.count(METRICS.membersCancelled, results.filter(({ result }) => result.kind === "cancelled").length);
  for (const one of results) report(run, flow, one);
  const error = firstTemporaryError(results);
  if (error !== undefined) return failed(error);
  return members.length < PAGE ? PROCESSED : UNFINISHED;
}

/** Reports a member that was acknowledged although it is not cancelled: a repetition would fail too. */
function report(run: TaskRun, flow: FlowKeys, { member, result, isAcknowledged }: MemberResult): void {
  if (result.kind !== "failed" || !isAcknowledged) return;
  run.reportUnreadable("member of a cancelled flow not cancelled", {
    flow_id: flow.id,
    execution_id: member,
    reason: result.error.message,
  });
}

function firstTemporaryError(results: readonly MemberResult[]): Error | undefined {
  const left = results.find(({ isAcknowledged }) => !isAcknowledged);
  if (left === undefined) return undefined;
  return left.result.kind === "failed"
    ? left.result.error
    : new ValkeyError(`member ${left.member} is cancelled, but not acknowledged`);
}

/** Removes an entry from the backlog, and the keys that belong to it. */
async function remove(
  run: TaskRun,
  valkey: Pipelines,
  { index: { partition }, member }: IndexEntry,
  keys: readonly string[],
): Promise<Outcome> {
  const { cancelBacklog } = run.ports.router.indexKeys(partition);
  const results = await valkey.pipelined([
    ...(keys.length === 0 ? [] : [command(partition, "del", ...keys)]),
    command(partition, "zrem", cancelBacklog, member),
  ]);
  const failure = results.find((result) => !result.ok);
  return failure === undefined || failure.ok ? PROCESSED : failed(failure.error);
}
