import { randomUUID } from "node:crypto";
import type { Plan, PlannedTask } from "#sdk/submission/plan.ts";
import { command, type Pipelines, type ValkeyCommand } from "#shared/contract/command.ts";
import { mintExecutionId, parseLaneId, unwrap } from "#shared/contract/ids.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { promoteDelayed } from "#shared/contract/ownership.ts";
import { fieldText } from "#shared/contract/record.ts";
import { pairResults } from "#shared/contract/results.ts";
import { applyDependencyToChild } from "#shared/contract/submission.ts";
import { SubmissionError } from "#shared/errors.ts";
import { chunked, replyOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";

/** The part of a plan that earlier or concurrent submissions of the same flow have written. */
export interface ExistingFlow {
  readonly flowExists: boolean;
  /** Ids of the executions that are members of the flow. */
  readonly members: ReadonlySet<string>;
  /** Ids of the planned executions that exist. Each has all its dependencies. */
  readonly executions: ReadonlySet<string>;
}

const OPEN = "open";
/** For a plan without tasks. */
const DEFAULT_LANE = unwrap(parseLaneId("default"));

/**
 * Reads which part of a plan already exists. Writes nothing.
 *
 * @throws SubmissionError if the flow id belongs to another workflow, if the flow was closed before all of the
 * workflow was in it, or if the loaded library is that of Sluice 0.1.
 * @throws ValkeyError if the library is not loaded or outdated.
 */
export async function readExistingFlow(valkey: Pipelines, plan: Plan): Promise<ExistingFlow> {
  const { flow } = plan;
  const probes = probeLibrary(plan);
  const [coreResult, membersResult, promotion, ...probeResults] = await valkey.pipelined([
    command(flow.partition, "hmget", flow.core, "flow_id", "public_flow_state"),
    command(flow.partition, "smembers", flow.members),
    probePromotion(plan),
    ...probes,
  ]);
  if (replyOrThrow(valueOrThrow(promotion)).kind === "refused") {
    throw new SubmissionError(
      "the loaded flowfabric library is that of Sluice 0.1, which cannot release roots; nothing was written: deploy " +
        "the current version first, which replaces it",
      { retryable: false },
    );
  }
  for (const { result } of pairResults(probes, probeResults, () => undefined)) {
    replyOrThrow(valueOrThrow(result));
  }
  const [flowId, state] = listOf(valueOrThrow(coreResult));
  if (fieldText(flowId) === "") return { flowExists: false, members: new Set(), executions: new Set() };
  const members = new Set(listOf(valueOrThrow(membersResult)).map(fieldText));
  const planned = new Set<string>(plan.tasks.map(({ keys }) => keys.id));
  for (const member of members) {
    if (!planned.has(member)) throw anotherWorkflow(plan, `it contains the execution ${member}`);
  }
  if (fieldText(state) !== OPEN && members.size < planned.size) {
    throw new SubmissionError(
      `flow ${flow.id} is ${fieldText(state) || "in an unknown state"} and contains ${members.size} of ` +
        `${planned.size} executions; nothing was written: submit the workflow with another flow id`,
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
      if (!hasPlannedEdges(planned, edges)) {
        throw anotherWorkflow(plan, `its task ${planned.task.id} has other dependencies`);
      }
      found.add(planned.keys.id);
    }
  }
  return found;
}

/** An execution is created together with all its dependencies, so other edges mean another workflow. */
function hasPlannedEdges({ incoming }: PlannedTask, edges: readonly string[]): boolean {
  const existing = new Set(edges);
  return existing.size === incoming.length && incoming.every(({ id }) => existing.has(id));
}

function anotherWorkflow(plan: Plan, reason: string): SubmissionError {
  return new SubmissionError(
    `flow ${plan.flow.id} belongs to another workflow: ${reason}; nothing was written: submit this workflow with ` +
      "another flow id",
    { retryable: false },
  );
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

/**
 * A call that fails if no library is loaded, or an outdated one of Sluice's that rejects surplus KEYS. Any other library
 * refuses the call and writes nothing, because the edge's child does not exist. No call for a plan without edges.
 *
 * The probe is needed because Valkey does not roll back a transaction. A child whose edges fail to apply would have no
 * dependencies, and a worker could run it too early.
 */
function probeLibrary(plan: Plan): ValkeyCommand[] {
  const { flow, index, tasks } = plan;
  for (const { task, incoming } of tasks) {
    const [edge] = incoming;
    if (edge === undefined) continue;
    return [applyDependencyToChild(flow, absentExecution(plan), index, task.lane, edge, 0, Date.now())];
  }
  return [];
}

/** A call that only Sluice 0.1's library refuses. It writes nothing, because the execution does not exist. */
function probePromotion(plan: Plan): ValkeyCommand {
  const lane = plan.tasks[0]?.task.lane ?? DEFAULT_LANE;
  return promoteDelayed({ keys: absentExecution(plan), index: plan.index, lane }, 0);
}

function absentExecution({ router, flow }: Plan): ExecKeys {
  return router.execKeys(unwrap(mintExecutionId(flow.partition, randomUUID())));
}
