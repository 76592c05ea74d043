import { z } from "zod";
import type { ExecutionRecord } from "#operate/execution.ts";
import type { OperateContext } from "#operate/operation.ts";
import { checkSelection, isWholeFlow, OPEN_STATES } from "#operate/selection.ts";
import { cancelWholeFlow } from "#operate/write/cancel/whole-flow.ts";
import { executionOperation, failure, selectedShape, type Verdict } from "#operate/write/changes.ts";
import { completionsOf, type EndedExecution, sendCompletions } from "#operate/write/completions.ts";
import { type CancelResult, cancelExecutions } from "#shared/cancellation/cancel-executions.ts";

const DEFAULT_REASON = "cancelled by an operator";

const input = z
  .strictObject({
    ...selectedShape,
    policy: z
      .enum(["cancel_all", "cancel_pending", "flow_only"])
      .optional()
      .describe(
        "Of a whole flow: cancel_all, the default, cancels every member that has not ended. The others only close the flow",
      ),
  })
  .superRefine(checkSelection)
  .superRefine((one, context) => {
    if (one.policy === undefined || isWholeFlow(one)) return;
    context.addIssue({ code: "custom", message: "policy: needs a flow, and no filter" });
  });

const cancelEach = executionOperation({
  name: "cancel",
  states: OPEN_STATES,
  input,
  inspect: ({ fields }) => {
    if (fields.lifecycle_phase === "terminal") {
      return { status: "unchanged", code: "already_ended", text: `has ended: ${fields.terminal_outcome}` };
    }
    const worker = fields.current_worker_instance_id;
    const isRunning = fields.lifecycle_phase === "active" && worker !== "";
    const running = isRunning ? `; worker ${worker} runs it, and its report is refused` : "";
    return { status: "would_change", text: `is cancelled, and its descendants are skipped${running}` };
  },
  apply: (context, executions, { reason }) => cancelMembers(context, executions, reason || DEFAULT_REASON),
});

/** Cancels executions, or a whole flow: that also closes it. */
export const cancel: typeof cancelEach = {
  ...cancelEach,
  run: (context, request) =>
    isWholeFlow(request)
      ? cancelWholeFlow(context, { ...request, reason: request.reason || DEFAULT_REASON })
      : cancelEach.run(context, request),
};

/** Cancels each execution, and then sends its completion. If the process dies in between, the reconciler sends it. */
async function cancelMembers(
  context: OperateContext,
  executions: readonly ExecutionRecord[],
  reason: string,
): Promise<Verdict[]> {
  // Before the first change: without a queue, no completion can be sent.
  completionsOf(context);
  const results = await cancelExecutions(
    context,
    executions.map(({ keys }) => ({ id: keys.id, reason })),
  );
  const cancelled = executions.filter((_, at) => results[at]?.kind === "cancelled");
  const members = cancelled.flatMap(({ keys, flowId }): EndedExecution[] =>
    flowId === undefined ? [] : [{ id: keys.id, flowId, outcome: "cancelled" }],
  );
  const sent = await sendCompletions(context, members);
  const unsent = new Set(members.filter((_, at) => sent[at]?.ok !== true).map(({ id }) => id));
  return executions.map(({ keys }, at) => verdictOf(keys.id, results[at], unsent.has(keys.id)));
}

function verdictOf(id: string, result: CancelResult | undefined, isUnsent: boolean): Verdict {
  switch (result?.kind) {
    case "cancelled":
      if (!isUnsent) return { status: "changed", text: "is cancelled" };
      return {
        status: "failed",
        code: "publish_failed",
        text: `is cancelled, but its completion was not accepted: run sluice publish ${id}, or wait for the reconciler`,
      };
    case "already_ended":
      return { status: "unchanged", code: "already_ended", text: `has ended meanwhile: ${result.outcome}` };
    case "not_found":
      return { status: "unchanged", code: "execution_not_found", text: "was deleted meanwhile" };
    default:
      return failure(result?.error);
  }
}
