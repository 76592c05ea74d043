/** `complete` and `fail`: end executions in place of their workers. */

import { z } from "zod";
import type { ExecutionRecord } from "#operate/execution.ts";
import type { OperateContext } from "#operate/operation.ts";
import { checkSelection } from "#operate/selection.ts";
import { time } from "#operate/words.ts";
import {
  applyEach,
  executionOperation,
  failure,
  selectedShape,
  type Verdict,
} from "#operate/write/changes.ts";
import { completionsOf } from "#operate/write/completions.ts";
import { hasLiveOwner } from "#operate/write/leases.ts";
import { takeOver } from "#operate/write/take-over.ts";
import { completeExecution } from "#sdk/worker/complete-execution.ts";
import type { RunOutcome } from "#sdk/worker/finish.ts";
import { parseTime } from "#shared/contract/record.ts";
import { PublishError } from "#shared/errors.ts";

const MAX_RESULT = 200_000;
const DEFAULT_REASON = "failed by an operator";

const force = z
  .boolean()
  .default(false)
  .describe("Also end executions that a worker runs: its lease is revoked, and its report refused");

/** Ends executions with success. */
export const complete = executionOperation({
  name: "complete",
  states: ["waiting"],
  input: z
    .strictObject({
      ...selectedShape,
      force,
      result: z.string().max(MAX_RESULT).default("").describe("The result to store. Empty: none"),
    })
    .superRefine(checkSelection),
  inspect: (execution, input) => inspect(execution, "success", input.force),
  apply: (context, executions, { result }) =>
    applyEach(executions, (one) => end(context, one, { outcome: "success", result })),
});

/** Ends executions with failure, whatever their retry policy says. Their descendants are skipped. */
export const fail = executionOperation({
  name: "fail",
  states: ["waiting"],
  input: z.strictObject({ ...selectedShape, force }).superRefine(checkSelection),
  inspect: (execution, input) => inspect(execution, "failed", input.force),
  apply: (context, executions, { reason }) =>
    applyEach(executions, (one) =>
      end(context, one, { outcome: "failed", reason: reason === "" ? DEFAULT_REASON : reason }),
    ),
});

function inspect(execution: ExecutionRecord, outcome: RunOutcome["outcome"], isForced: boolean): Verdict {
  const { fields, keys } = execution;
  const ends =
    outcome === "success" ? "ends with success" : "ends with failure, and its descendants are skipped";
  switch (fields.lifecycle_phase) {
    case "terminal":
      return { status: "unchanged", code: "already_ended", text: `has ended: ${fields.terminal_outcome}` };
    case "active": {
      const worker = fields.current_worker_instance_id;
      if (!hasLiveOwner(execution))
        return { status: "would_change", text: `${ends}; its worker ${worker} is lost` };
      if (isForced) return { status: "would_change", text: `${ends}; its worker ${worker} loses the lease` };
      const until = time(Number(fields.lease_expires_at));
      return {
        status: "failed",
        code: "has_owner",
        text: `worker ${worker} runs it, with a lease until ${until}: wait for it, or use --force to end it anyway`,
      };
    }
    case "runnable":
      if (fields.eligibility_state === "eligible_now") return { status: "would_change", text: ends };
      return { status: "failed", code: fields.eligibility_state, text: whyNotClaimable(fields, keys.id) };
    default:
      return {
        status: "failed",
        code: fields.lifecycle_phase,
        text: `cannot be ended while it is ${fields.public_state}`,
      };
  }
}

function whyNotClaimable(fields: ExecutionRecord["fields"], id: string): string {
  if (fields.eligibility_state === "blocked_by_dependencies") {
    return `waits for its dependencies: end those first (sluice explain ${id} lists them), or cancel it`;
  }
  if (fields.eligibility_state === "not_eligible_until_time") {
    const until = parseTime(fields.delay_until);
    return `is delayed until ${until === undefined ? "an unknown time" : time(until)}: wait for it, or cancel it`;
  }
  return `cannot be ended while it is ${fields.public_state}: cancel it`;
}

async function end(
  context: OperateContext,
  execution: ExecutionRecord,
  outcome: RunOutcome,
): Promise<Verdict> {
  const ended = outcome.outcome === "success" ? "has ended with success" : "has ended with failure";
  try {
    if (execution.fields.lifecycle_phase === "active") {
      if (await takeOver(context, execution, outcome)) return { status: "changed", text: ended };
      return { status: "failed", code: "owner_changed", text: OWNER_CHANGED };
    }
    const ports = { ...context, completions: completionsOf(context) };
    const completion = await completeExecution(ports, execution.keys.id, outcome);
    if (completion.status === "ended") return { status: "changed", text: ended };
    if (completion.status === "already_ended") {
      return {
        status: "unchanged",
        code: "already_ended",
        text: `has ended meanwhile: ${completion.outcome}`,
      };
    }
    return { status: "failed", code: "owner_changed", text: OWNER_CHANGED };
  } catch (error) {
    if (!(error instanceof PublishError)) return failure(error);
    const text = `${ended}, but its completion was not accepted: run sluice publish ${execution.keys.id}, or wait for the reconciler`;
    return { status: "failed", code: error.code, text };
  }
}

const OWNER_CHANGED =
  "its state has changed meanwhile, or another worker has taken it: run the command again";
