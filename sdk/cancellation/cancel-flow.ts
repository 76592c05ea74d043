/**
 * Cancels a flow: closes it, and cancels its members.
 *
 * The library records the members as pending in the call that closes the flow, and each member is removed once it is
 * cancelled. So a cancellation that was interrupted is complete after a second `cancelFlow`, or without one after the
 * reconciler's task `cancellations`. FlowFabric's libraries 5 and 6 record nothing: there, only a second call helps.
 */

import { memberPages, pagesOf } from "#sdk/cancellation/member-pages.ts";
import type { CancelPorts } from "#shared/cancellation/cancel-executions.ts";
import { cancelMembers, type MemberResult } from "#shared/cancellation/cancel-members.ts";
import { command } from "#shared/contract/command.ts";
import { type CancellationPolicy, cancelFlow as cancelFlowCall } from "#shared/contract/graph.ts";
import type { FlowId } from "#shared/contract/ids.ts";
import type { FlowKeys, IndexKeys } from "#shared/contract/keys.ts";
import { fieldText } from "#shared/contract/record.ts";
import type { SluiceError } from "#shared/errors.ts";
import { refusalError, replyOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";

/** Options of `cancelFlow`. */
export interface CancelFlowOptions {
  /** Stored in the flow's record and in the record of each cancelled member. */
  readonly reason: string;
  /**
   * `cancel_all`, the default, cancels every member that has not ended. `cancel_pending` and `flow_only` cancel none: they
   * only close the flow, so that no member can be added.
   */
  readonly policy?: CancellationPolicy;
  /**
   * How long the reconciler leaves the members to this call, in milliseconds: 30,000 unless given. A call that takes longer
   * is still correct, because cancelling a member twice changes nothing.
   */
  readonly graceMs?: number;
  /** Called after every page of members. */
  readonly onProgress?: (progress: CancelFlowProgress) => void;
}

/** Counts of members. */
export interface CancelFlowProgress {
  readonly cancelled: number;
  /** Had ended before, or was cancelled by another caller. */
  readonly alreadyEnded: number;
  /** Has no record. */
  readonly notFound: number;
  readonly failed: number;
}

/** A member that was not cancelled. */
export interface MemberFailure {
  /** The execution id. */
  readonly member: string;
  readonly error: SluiceError;
  /** Whether the member is still to be cancelled. False: its id or record is invalid, and a repetition would fail too. */
  readonly isPending: boolean;
}

/** The result of `cancelFlow`. */
export interface FlowCancellation extends CancelFlowProgress {
  readonly flowId: FlowId;
  /** The policy in the flow's record: that of the first call. */
  readonly policy: string;
  /** The reason in the flow's record: that of the first call. */
  readonly reason: string;
  /** Whether the flow was cancelled before. This call has then continued that cancellation. */
  readonly wasCancelled: boolean;
  readonly failures: readonly MemberFailure[];
}

/** How often a member is tried, if its failure may be temporary. */
const MAX_TRIES = 3;
const FIRST_PAUSE_MS = 100;

/**
 * Cancels a flow. A member that runs is cancelled too: its worker's next report is refused. Completions are not sent,
 * because every child is a member of the same flow.
 *
 * If the flow is cancelled already, the call continues with the members that are still pending, under the policy and the
 * reason of the first call. It does not touch a member that was replayed after its cancellation.
 *
 * @throws RefusedError `flow_not_found`; `flow_already_terminal` if the flow ended in another way; `invalid_grace_ms`.
 * @throws ValkeyError if the flow itself could not be cancelled or read. It is safe to call again.
 *
 * @example
 * using sluice = await connect();
 * const cancellation = await cancelFlow(sluice, flowId, { reason: "superseded" });
 * if (cancellation.failures.some(({ isPending }) => isPending)) console.warn("call again, or leave it to the reconciler");
 */
export async function cancelFlow(
  ports: CancelPorts,
  flowId: FlowId,
  options: CancelFlowOptions,
): Promise<FlowCancellation> {
  const flow = ports.router.flowKeys(flowId);
  const index = ports.router.indexKeys(flow.partition);
  const closed = await closeFlow(ports, flow, index, options);
  const counts = { cancelled: 0, alreadyEnded: 0, notFound: 0, failed: 0 };
  const failures: MemberFailure[] = [];
  if (closed.policy === "cancel_all") {
    const pages =
      closed.members === undefined ? memberPages(ports.valkey, flow, index) : pagesOf(closed.members);
    for await (const page of pages) {
      for (const { member, result, isPending } of await cancelPage(ports, flow, index, page, closed.reason)) {
        if (result.kind === "cancelled") counts.cancelled += 1;
        else if (result.kind === "already_ended") counts.alreadyEnded += 1;
        else if (result.kind === "not_found") counts.notFound += 1;
        else {
          counts.failed += 1;
          failures.push({ member, error: result.error, isPending });
        }
      }
      options.onProgress?.({ ...counts });
    }
  }
  const { policy, reason, members } = closed;
  return { flowId, policy, reason, wasCancelled: members === undefined, ...counts, failures };
}

interface ClosedFlow {
  readonly policy: string;
  readonly reason: string;
  /** All members; undefined if the flow was cancelled before. */
  readonly members: readonly string[] | undefined;
}

/** Closes the flow. If it is cancelled already, reads how. */
async function closeFlow(
  { valkey }: CancelPorts,
  flow: FlowKeys,
  index: IndexKeys,
  { reason, policy = "cancel_all", graceMs }: CancelFlowOptions,
): Promise<ClosedFlow> {
  const [result] = await valkey.pipelined([cancelFlowCall(flow, index, reason, policy, Date.now(), graceMs)]);
  const reply = replyOrThrow(valueOrThrow(result));
  if (reply.kind === "done") return { policy, reason, members: reply.fields.slice(1) };
  const refusal = refusalError("ff_cancel_flow", reply);
  if (reply.code !== "flow_already_terminal") throw refusal;
  const [record] = await valkey.pipelined([
    command(flow.partition, "hmget", flow.core, "public_flow_state", "cancellation_policy", "cancel_reason"),
  ]);
  const value = valueOrThrow(record);
  const [state, storedPolicy = "", storedReason = ""] = Array.isArray(value) ? value.map(fieldText) : [];
  if (state !== "cancelled") throw refusal;
  return { policy: storedPolicy, reason: storedReason, members: undefined };
}

/** Cancels one page of members. Repeats the calls that failed and may succeed, after a pause. */
async function cancelPage(
  ports: CancelPorts,
  flow: FlowKeys,
  index: IndexKeys,
  page: readonly string[],
  reason: string,
): Promise<MemberResult[]> {
  const results = new Map<string, MemberResult>();
  let open = page;
  for (let attempt = 1; open.length > 0; attempt += 1) {
    for (const one of await cancelMembers(ports, flow, index, open, reason)) results.set(one.member, one);
    open = open.filter((member) => results.get(member)?.isPending !== false);
    if (attempt === MAX_TRIES) break;
    if (open.length > 0) await pause(FIRST_PAUSE_MS * 2 ** (attempt - 1));
  }
  return [...results.values()];
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
