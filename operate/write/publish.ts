import { z } from "zod";
import type { ExecutionRecord } from "#operate/execution.ts";
import { checkSelection, ENDED_STATES } from "#operate/selection.ts";
import { executionOperation, failure, selectedShape, type Verdict } from "#operate/write/changes.ts";
import { sendCompletions } from "#operate/write/completions.ts";

/**
 * Sends the completions of executions again that have ended. The dispatch function reads their records, so a completion that was
 * processed before, or whose execution was replayed meanwhile, changes nothing.
 */
export const publish = executionOperation({
  name: "publish",
  states: ENDED_STATES,
  input: z.strictObject(selectedShape).superRefine(checkSelection),
  inspect,
  async apply(context, executions) {
    const ended = executions.flatMap(({ keys, flowId, fields }) =>
      flowId === undefined ? [] : [{ id: keys.id, flowId, outcome: fields.terminal_outcome }],
    );
    const results = await sendCompletions(context, ended);
    return results.map(
      (result): Verdict =>
        result.ok ? { status: "changed", text: "its completion is sent" } : failure(result.error),
    );
  },
});

function inspect({ fields, flowId }: ExecutionRecord): Verdict {
  if (fields.lifecycle_phase !== "terminal") {
    return { status: "unchanged", code: "not_ended", text: `has not ended: ${fields.public_state}` };
  }
  if (flowId === undefined) {
    return { status: "unchanged", code: "no_flow", text: "is in no flow: nothing depends on it" };
  }
  return { status: "would_change", text: `its completion is sent again (${fields.terminal_outcome})` };
}
