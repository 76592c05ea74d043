import { libraryProbes } from "#sdk/submission/library-probes.ts";
import type { Plan, PlannedTask } from "#sdk/submission/plan.ts";
import { missedDeadlines } from "#sdk/submission/times.ts";
import { command, type Pipelines } from "#shared/contract/command.ts";
import { fieldText } from "#shared/contract/record.ts";
import { SUBMISSION_FIELDS } from "#shared/contract/submission.ts";
import { SubmissionError } from "#shared/errors.ts";
import { chunked, valueOrThrow } from "#shared/valkey/batches.ts";
import { serverTimeMs } from "#shared/valkey/server-time.ts";

/** The part of a plan that earlier or concurrent submissions of the same flow have written. */
export interface ExistingFlow {
  readonly flowExists: boolean;
  /** When the flow was created, in the server's time, as its record has it. */
  readonly createdAt: string;
  /** Whether the flow has the marks of a started and of a completed submission. */
  readonly isMarkedStarted: boolean;
  readonly isMarkedCompleted: boolean;
  /** Ids of the executions that are members of the flow. */
  readonly members: ReadonlySet<string>;
  /** Ids of the planned executions that exist. Each has all its dependencies. */
  readonly executions: ReadonlySet<string>;
}

const OPEN = "open";
const NO_FLOW: ExistingFlow = {
  flowExists: false,
  createdAt: "",
  isMarkedStarted: false,
  isMarkedCompleted: false,
  members: new Set(),
  executions: new Set(),
};

/**
 * Reads which part of a plan already exists. Writes nothing.
 *
 * @throws SubmissionError if the flow id belongs to another workflow, if the flow was closed before all of the
 * workflow was in it or has been purged, if a deadline of a new flow has passed, or if the loaded library cannot do what
 * the workflow needs.
 * @throws ValkeyError if the library is not loaded or outdated.
 */
export async function readExistingFlow(valkey: Pipelines, plan: Plan): Promise<ExistingFlow> {
  const { flow } = plan;
  const probes = libraryProbes(plan);
  const [coreResult, membersResult, purged, time, ...probeResults] = await valkey.pipelined([
    command(
      flow.partition,
      "hmget",
      flow.core,
      "flow_id",
      "public_flow_state",
      "created_at",
      SUBMISSION_FIELDS.tasks,
      SUBMISSION_FIELDS.completedAt,
    ),
    command(flow.partition, "smembers", flow.members),
    command(flow.partition, "exists", flow.purged),
    command(flow.partition, "time"),
    ...probes.map(({ call }) => call),
  ]);
  for (const [position, probe] of probes.entries()) probe.check(probeResults[position]);
  if (valueOrThrow(purged) === 1) {
    throw new SubmissionError(
      `flow ${flow.id} has ended and was deleted; nothing was written: submit the workflow with another flow id`,
      { retryable: false },
    );
  }
  const [flowId = "", state = "", createdAt = "", startedMark = "", completedMark = ""] = listOf(
    valueOrThrow(coreResult),
  ).map(fieldText);
  if (flowId === "") {
    const errors = missedDeadlines(plan.tasks, serverTimeMs(valueOrThrow(time)));
    if (errors.length === 0) return NO_FLOW;
    throw new SubmissionError(["nothing was written:", ...errors].join("\n"), { retryable: false });
  }
  const members = new Set(listOf(valueOrThrow(membersResult)).map(fieldText));
  const planned = new Set<string>(plan.tasks.map(({ keys }) => keys.id));
  for (const member of members) {
    if (!planned.has(member)) throw anotherWorkflow(plan, `it contains the execution ${member}`);
  }
  if (state !== OPEN && members.size < planned.size) {
    throw new SubmissionError(
      `flow ${flow.id} is ${state || "in an unknown state"} and contains ${members.size} of ` +
        `${planned.size} executions; nothing was written: submit the workflow with another flow id`,
      { retryable: false },
    );
  }
  return {
    flowExists: true,
    createdAt,
    isMarkedStarted: startedMark !== "",
    isMarkedCompleted: completedMark !== "",
    members,
    executions: await existingExecutions(valkey, plan),
  };
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
