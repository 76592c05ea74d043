/** What is wrong with the flow of an execution. */

import { type Cause, cause } from "#operate/explain/causes.ts";
import { type ExplainContext, sluice } from "#operate/explain/read.ts";
import type { Subject } from "#operate/explain/subject.ts";
import { ago, plural } from "#operate/words.ts";
import { readAll } from "#shared/consistency/read.ts";
import { command } from "#shared/contract/command.ts";
import { parseTime } from "#shared/contract/record.ts";
import { SUBMISSION_FIELDS } from "#shared/contract/submission.ts";

/** How long a submission may write nothing before it counts as stopped. Milliseconds. */
const SUBMISSION_PAUSE_MS = 30_000;

/** The causes that concern a member which has not ended. */
export async function flowCauses(context: ExplainContext, subject: Subject): Promise<Cause[]> {
  const { flow, record, nowMs, keys } = subject;
  if (flow === undefined || record.lifecycle_phase === "terminal") return [];
  const flowId = flow.keys.id;
  const involved = { flows: [flowId] };
  if (flow.isPurged) {
    return [
      cause("flow_being_purged", `Its flow ${flowId} is being deleted after its retention.`, { involved }),
    ];
  }
  if (flow.core.flow_id === "") {
    return [
      cause(
        "flow_missing",
        `Its flow ${flowId} has no record: dispatch and the reconciler still resolve edges, and nothing can be added to it.`,
        { involved, next: [sluice("doctor"), sluice("cancel", keys.id, "--dry-run")] },
      ),
    ];
  }
  const causes: Cause[] = [];
  const submission = await submissionCause(context, subject);
  if (submission !== undefined) causes.push(submission);
  if (!flow.isMember) {
    causes.push(
      cause(
        "not_a_member",
        `Its record names the flow ${flowId}, and the flow does not list it as a member. The submission stopped in between: submit ` +
          "the workflow again with the same flow id.",
        { involved, next: [sluice("status", flowId)] },
      ),
    );
  }
  if (flow.core.public_flow_state === "cancelled") {
    const reason = flow.core.cancel_reason === "" ? "" : ` (${flow.core.cancel_reason})`;
    causes.push(
      cause(
        "flow_cancelled",
        `Its flow ${flowId} was cancelled ${ago(parseTime(flow.core.cancelled_at), nowMs)}${reason}, with the policy ` +
          `${flow.core.cancellation_policy}. ${cancelOutlook(subject)}`,
        { involved, next: [sluice("cancel", keys.id, "--dry-run"), sluice("cancel", keys.id)] },
      ),
    );
  }
  return causes;
}

function cancelOutlook({ flow }: Subject): string {
  if (flow?.isCancelPending === true) {
    return "The execution is still to be cancelled: the reconciler's task cancellations does it, 30 s after the call unless it was given another time.";
  }
  return flow?.core.cancellation_policy === "cancel_all"
    ? "The execution is no longer on the list of members to cancel, so it was replayed or added since: it runs."
    : "That policy cancels no member: the execution runs on.";
}

async function submissionCause(context: ExplainContext, subject: Subject): Promise<Cause | undefined> {
  const { flow, nowMs } = subject;
  if (flow === undefined) return undefined;
  const { core, keys } = flow;
  const tasks = core[SUBMISSION_FIELDS.tasks];
  if (tasks === "" || core[SUBMISSION_FIELDS.completedAt] !== "") return undefined;
  const [members, mutation] = await readAll(context, [
    command(keys.partition, "scard", keys.members),
    command(keys.partition, "hget", keys.core, "last_mutation_at"),
  ]);
  const lastMs = parseTime(String(mutation));
  const progress = `${Number(members).toLocaleString("en-US")} of ${plural(Number(tasks), "task")} are members of flow ${keys.id}`;
  const details = { involved: { flows: [keys.id] }, next: [sluice("status", keys.id)] };
  if (lastMs !== undefined && nowMs - lastMs < SUBMISSION_PAUSE_MS) {
    return cause(
      "submission_running",
      `The submission has not finished: ${progress}. Nothing runs before.`,
      details,
    );
  }
  return cause(
    "submission_incomplete",
    `The submission stopped ${ago(lastMs, nowMs)}: ${progress}, and its roots are held back. Nothing of the flow runs until the ` +
      "workflow is submitted again with the same flow id, which completes it.",
    { ...details, next: [...details.next, `sluice submit FILE --flow ${keys.id}`] },
  );
}
