/** Closes a flow, and cancels its members. */

import { type Change, type ChangeReport, MAX_CHANGES } from "#operate/change-report.ts";
import { readExecutions } from "#operate/execution.ts";
import type { OperateContext } from "#operate/operation.ts";
import { formatPosition, OPEN_STATES, selectionOf, selectPage } from "#operate/selection.ts";
import {
  failure,
  missingChange,
  namedChanges,
  reportOf,
  type SelectedInput,
} from "#operate/write/changes.ts";
import { cancelFlow, type FlowCancellation } from "#sdk/cancellation/cancel-flow.ts";
import { command } from "#shared/contract/command.ts";
import type { CancellationPolicy } from "#shared/contract/graph.ts";
import { parseExecutionId } from "#shared/contract/ids.ts";
import type { FlowKeys } from "#shared/contract/keys.ts";
import { fieldText } from "#shared/contract/record.ts";
import { RefusedError } from "#shared/errors.ts";
import { valueOrThrow } from "#shared/valkey/batches.ts";

type Request = SelectedInput & { readonly policy?: CancellationPolicy | undefined };

/**
 * Cancels the flow in one call, whatever its size: a call that is interrupted is finished by the reconciler. A dry run shows
 * the flow on its first page, and the members that would be cancelled on the others.
 */
export async function cancelWholeFlow(context: OperateContext, request: Request): Promise<ChangeReport> {
  const selection = selectionOf(request, OPEN_STATES);
  if (selection.kind !== "flow") throw new TypeError("the request names no flow");
  const flow = context.router.flowKeys(selection.flowId);
  const state = await readFlow(context, flow);
  if (state === undefined) return reportOf(request, missingChange(selection, flow.id), undefined);
  if (!request.dry_run) return reportOf(request, await cancelNow(context, flow, request), undefined);
  const policy = state.policy ?? request.policy ?? "cancel_all";
  if (request.cursor === undefined) {
    const next = policy === "cancel_all" ? formatPosition(flow.partition, "") : undefined;
    return reportOf(request, [flowPreview(flow, state)], next);
  }
  const page = await selectPage(context, selection, request.cursor);
  const members = page.executions.filter(
    ({ keys }) => state.pending === undefined || state.pending.has(keys.id),
  );
  const isCancelled = { status: "would_change", text: "is cancelled" } as const;
  const changes = await namedChanges(
    context,
    members.map((member) => [member, isCancelled]),
  );
  return reportOf(request, changes, page.next);
}

interface FlowState {
  /** `public_flow_state`. */
  readonly state: string;
  /** The policy of a flow that is cancelled. */
  readonly policy: string | undefined;
  /** The members of a cancelled flow that are still to be cancelled. */
  readonly pending: ReadonlySet<string> | undefined;
}

/** Undefined if the flow does not exist. */
async function readFlow(context: OperateContext, flow: FlowKeys): Promise<FlowState | undefined> {
  const [record, members] = await context.valkey.pipelined([
    command(flow.partition, "hmget", flow.core, "public_flow_state", "cancellation_policy"),
    command(flow.partition, "smembers", flow.pendingCancels),
  ]);
  const fields = valueOrThrow(record);
  const [state = "", policy = ""] = Array.isArray(fields) ? fields.map(fieldText) : [];
  const listed = valueOrThrow(members);
  if (state === "") return undefined;
  if (state !== CANCELLED) return { state, policy: undefined, pending: undefined };
  const ids = (Array.isArray(listed) ? listed : []).map(parseExecutionId);
  const pending = await readExecutions(
    context,
    ids.flatMap((id) => (id.ok ? [id.value] : [])),
  );
  // One that was cancelled and not acknowledged is still listed.
  const open = pending.flatMap((one) =>
    one?.fields.lifecycle_phase === "terminal" ? [] : (one?.keys.id ?? []),
  );
  return { state, policy, pending: new Set(open) };
}

const OPEN = "open";
const CANCELLED = "cancelled";

function flowPreview({ id: target }: FlowKeys, { state, pending }: FlowState): Change {
  if (state === OPEN) {
    return { target, status: "would_change", text: "the flow is closed: no execution can be added to it" };
  }
  if (pending === undefined || pending.size === 0) return { target, ...endedFlow(state) };
  const text = `the flow is cancelled already, and ${pending.size} of its members are not`;
  return { target, status: "would_change", text };
}

function endedFlow(state: string): Omit<Change, "target"> {
  return { status: "unchanged", code: "flow_already_terminal", text: `the flow is ${state} already` };
}

async function cancelNow(
  context: OperateContext,
  { id: target }: FlowKeys,
  { reason, policy = "cancel_all" }: Request,
): Promise<Change[]> {
  try {
    return changesOf(await cancelFlow(context, target, { reason, policy }));
  } catch (error) {
    if (!(error instanceof RefusedError) || error.code !== "flow_already_terminal") {
      return [{ target, ...failure(error) }];
    }
    return [{ target, ...endedFlow("ended") }];
  }
}

function changesOf(cancellation: FlowCancellation): Change[] {
  const { flowId: target, cancelled, alreadyEnded, wasCancelled, failures } = cancellation;
  const failed = failures
    .slice(0, MAX_CHANGES - 1)
    .map(({ member, error }): Change => ({ target: member, ...failure(error) }));
  if (wasCancelled && cancelled === 0) return [{ target, ...endedFlow(CANCELLED) }, ...failed];
  const text = `the flow is cancelled: ${cancelled} members are cancelled, ${alreadyEnded} had ended`;
  return [{ target, status: "changed", text }, ...failed];
}
