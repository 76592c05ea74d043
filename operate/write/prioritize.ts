import { z } from "zod";
import type { ExecutionRecord } from "#operate/execution.ts";
import { checkSelection } from "#operate/selection.ts";
import { callEach, executionOperation, selectedShape, type Verdict } from "#operate/write/changes.ts";
import type { Reply } from "#shared/contract/reply.ts";
import { changePriority } from "#shared/contract/upkeep.ts";
import { refusalError } from "#shared/valkey/batches.ts";

/** The range in which scores of the eligible zset are exact (contract, section 4). */
const MAX_PRIORITY = 9_000;

/** Moves waiting executions in the order in which workers that poll claim. */
export const prioritize = executionOperation({
  name: "prioritize",
  states: ["waiting"],
  input: z
    .strictObject({
      ...selectedShape,
      priority: z
        .int()
        .min(0)
        .max(MAX_PRIORITY)
        .describe("Executions with a higher priority are claimed first"),
    })
    .superRefine(checkSelection),
  inspect: (execution, { priority }) => inspect(execution, priority),
  apply: (context, executions, { priority }) =>
    callEach(context, executions, (target) => changePriority(target, priority), verdictOf),
});

function inspect({ fields }: ExecutionRecord, priority: number): Verdict {
  if (fields.lifecycle_phase !== "runnable" || fields.eligibility_state !== "eligible_now") {
    const text = `only a waiting execution has a place in the order of its lane: this one is ${fields.public_state}`;
    return { status: "failed", code: "execution_not_eligible", text };
  }
  if (fields.priority === String(priority)) {
    return { status: "unchanged", code: "same_priority", text: `its priority is ${priority} already` };
  }
  return { status: "would_change", text: `its priority changes from ${fields.priority} to ${priority}` };
}

function verdictOf(reply: Reply): Verdict {
  if (reply.kind === "done") {
    const [before = "", now = ""] = reply.fields;
    return { status: "changed", text: `its priority was ${before}, and is ${now}` };
  }
  if (reply.code === "execution_not_eligible" || reply.code === "execution_not_found") {
    return { status: "unchanged", code: reply.code, text: "does not wait for a worker any more" };
  }
  throw refusalError("ff_change_priority", reply);
}
