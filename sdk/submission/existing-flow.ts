import { randomUUID } from "node:crypto";
import type { Plan, PlannedTask } from "#sdk/submission/plan.ts";
import { command, type Pipelines, type ValkeyCommand } from "#shared/contract/command.ts";
import { mintExecutionId, unwrap } from "#shared/contract/ids.ts";
import { fieldText } from "#shared/contract/record.ts";
import { applyDependencyToChild } from "#shared/contract/submission.ts";
import { SubmissionError } from "#shared/errors.ts";
import { chunked, replyOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";

/** What an earlier or a simultaneous submission of the same flow has written so far. */
export interface ExistingFlow {
  readonly flowExists: boolean;
  readonly members: ReadonlySet<string>;
  /** Ids of the planned executions that are there, with all their dependencies. */
  readonly executions: ReadonlySet<string>;
}

const OPEN = "open";

/**
 * Reads what there is of a plan. Throws a SubmissionError, with nothing written, where the flow id belongs
 * to another workflow, or where the flow is closed before all of the workflow is in it; and a ValkeyError where the
 * library is not loaded, or is of another edition than the plan.
 */
export async function readExistingFlow(valkey: Pipelines, plan: Plan): Promise<ExistingFlow> {
  const { flow } = plan;
  const [coreResult, membersResult, ...probed] = await valkey.pipelined([
    command(flow.partition, "hmget", flow.core, "flow_id", "public_flow_state"),
    command(flow.partition, "smembers", flow.members),
    ...editionProbe(plan),
  ]);
  for (const probe of probed) replyOrThrow(valueOrThrow(probe));
  const [flowId, state] = listOf(valueOrThrow(coreResult));
  if (fieldText(flowId) === "") return { flowExists: false, members: new Set(), executions: new Set() };
  const members = new Set(listOf(valueOrThrow(membersResult)).map(fieldText));
  const planned = new Set<string>(plan.tasks.map(({ keys }) => keys.id));
  for (const member of members) {
    if (!planned.has(member)) throw anotherWorkflow(plan, `the execution ${member} is in it`);
  }
  if (fieldText(state) !== OPEN && members.size < planned.size) {
    throw new SubmissionError(
      `the flow ${flow.id} is ${fieldText(state) || "in no state"} and has ${members.size} of ${planned.size} ` +
        "executions; nothing was written: submit the workflow under another flow id",
      { retryable: false },
    );
  }
  return { flowExists: true, members, executions: await existingExecutions(valkey, plan) };
}

async function existingExecutions(valkey: Pipelines, plan: Plan): Promise<Set<string>> {
  const { partition } = plan.flow;
  const found = new Set<string>();
  for (const chunk of chunked(plan.tasks)) {
    const results = await valkey.pipelined(
      chunk.flatMap(({ keys }) => [
        command(partition, "exists", keys.core),
        command(partition, "smembers", keys.depsAllEdges),
      ]),
    );
    for (const [position, planned] of chunk.entries()) {
      if (valueOrThrow(results[2 * position]) !== 1) continue;
      const edges = listOf(valueOrThrow(results[2 * position + 1])).map(fieldText);
      if (!sameEdges(planned, edges)) {
        throw anotherWorkflow(plan, `the task ${planned.task.id} has other dependencies there`);
      }
      found.add(planned.keys.id);
    }
  }
  return found;
}

/** An execution is created with all its dependencies or not at all: other ones mean another workflow. */
function sameEdges({ incoming }: PlannedTask, edges: readonly string[]): boolean {
  const there = new Set(edges);
  return there.size === incoming.length && incoming.every(({ id }) => there.has(id));
}

function anotherWorkflow(plan: Plan, evidence: string): SubmissionError {
  return new SubmissionError(
    `the flow ${plan.flow.id} is another workflow's: ${evidence}; nothing was written: submit this workflow ` +
      "under another flow id",
    { retryable: false },
  );
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

/**
 * A call that fails where the loaded library is of another edition than the plan's, and else is refused and writes
 * nothing: an edge for a child that does not exist. None for a plan without edges.
 *
 * A child is created and gets its edges in one transaction, and Valkey rolls none back: an edge that failed there
 * would leave a child that waits for nothing.
 */
function editionProbe({ router, edition, flow, index, tasks }: Plan): ValkeyCommand[] {
  for (const { task, incoming } of tasks) {
    const [edge] = incoming;
    if (edge === undefined) continue;
    const nobody = router.execKeys(unwrap(mintExecutionId(flow.partition, randomUUID())));
    return [applyDependencyToChild(edition, flow, nobody, index, task.lane, edge, 0, Date.now())];
  }
  return [];
}
