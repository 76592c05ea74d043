/**
 * Submitting a workflow: flow, executions, membership, edges.
 *
 * It can be repeated and run twice at once under the same flow id, and a crash at any line is mended by the
 * next submission. That rests on four things:
 * - ids are derived from the flow id and the task ids, and every function accepts what is there already;
 * - a child is created together with its dependencies, so it is blocked from its birth;
 * - roots come last, when all else of the graph stands: until then nothing can run;
 * - a root that ends before its edges are staged has its completion sent once more, at the end.
 */

import { addMembers, stageEdges } from "#sdk/submission/edges.ts";
import { createExecutions } from "#sdk/submission/executions.ts";
import { type ExistingFlow, readExistingFlow } from "#sdk/submission/existing-flow.ts";
import { sendMissedCompletions } from "#sdk/submission/missed-completions.ts";
import { type Plan, type PlannedTask, planSubmission } from "#sdk/submission/plan.ts";
import type { Workflow } from "#sdk/submission/workflow.ts";
import type { Pipelines } from "#shared/contract/command.ts";
import type { Edition } from "#shared/contract/edition.ts";
import type { ExecutionId, FlowId, Partition } from "#shared/contract/ids.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { createFlow } from "#shared/contract/submission.ts";
import { messageOf, SubmissionError } from "#shared/errors.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import { doneOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";

export interface SubmitDependencies {
  readonly valkey: Pipelines;
  readonly router: PartitionRouter;
  readonly completions: CompletionPublisher;
}

export interface SubmitOptions {
  readonly flowId: FlowId;
  /** `default` unless given. */
  readonly namespace?: string;
  /** The edition of the loaded library; 11 unless given. */
  readonly edition?: Edition;
  readonly onProgress?: (progress: SubmitProgress) => void;
}

/** How much of the workflow is known to be in Valkey. */
export interface SubmitProgress {
  readonly executions: number;
  readonly members: number;
  readonly edges: number;
  readonly tasksTotal: number;
  readonly edgesTotal: number;
}

export interface Submission {
  readonly flowId: FlowId;
  readonly partition: Partition;
  /** By task id, in the workflow's order. */
  readonly executions: ReadonlyMap<string, ExecutionId>;
  /** Task ids by execution id. */
  readonly tasks: ReadonlyMap<ExecutionId, string>;
  readonly taskCount: number;
  readonly edgeCount: number;
  /** Completions that were sent because they had come before their edges. */
  readonly completionsSent: number;
}

const FLOW_KIND = "dag";
const DEFAULT_NAMESPACE = "default";

/**
 * Submits a workflow. Throws a SubmissionError, which says how far it came; submitting again with the same
 * flow id goes on from there. The `flowfabric` library must be loaded.
 */
export async function submitFlow(
  { valkey, router, completions }: SubmitDependencies,
  workflow: Workflow,
  options: SubmitOptions,
): Promise<Submission> {
  const { flowId, namespace = DEFAULT_NAMESPACE, edition = 11 } = options;
  const plan = planSubmission(router, workflow, flowId, namespace, edition);
  const tally = new Tally(plan, options.onProgress);
  try {
    const existing = await prepareFlow(valkey, plan);
    const isRoot = ({ incoming }: PlannedTask): boolean => incoming.length === 0;
    await place(
      valkey,
      plan,
      existing,
      plan.tasks.filter((planned) => !isRoot(planned)),
      tally,
    );
    await place(valkey, plan, existing, plan.tasks.filter(isRoot), tally);
    return submissionOf(plan, workflow, await sendMissedCompletions(valkey, completions, plan));
  } catch (error) {
    if (error instanceof SubmissionError && !error.retryable) throw error;
    throw new SubmissionError(`submitting flow ${flowId} failed: ${messageOf(error)}; ${tally.text()}`, {
      retryable: true,
      cause: error,
    });
  }
}

/** Makes sure that the flow exists, and reads what is already in it. */
async function prepareFlow(valkey: Pipelines, plan: Plan): Promise<ExistingFlow> {
  const existing = await readExistingFlow(valkey, plan);
  if (existing.flowExists) return existing;
  const { flow, index, namespace } = plan;
  const [result] = await valkey.pipelined([createFlow(flow, index, FLOW_KIND, namespace, Date.now())]);
  const { status } = doneOrThrow("ff_create_flow", valueOrThrow(result));
  // Another submitter was quicker: what it has written since is there to be found.
  return status === "OK" ? existing : readExistingFlow(valkey, plan);
}

/** Puts executions and their outgoing edges in place; the edges' other ends are there already or among them. */
async function place(
  valkey: Pipelines,
  plan: Plan,
  existing: ExistingFlow,
  tasks: readonly PlannedTask[],
  tally: Tally,
): Promise<void> {
  const absent = tasks.filter(({ keys }) => !existing.executions.has(keys.id));
  tally.add("executions", tasks.length - absent.length);
  await createExecutions(valkey, plan, absent, (count) => tally.add("executions", count));
  const strangers = tasks.filter(({ keys }) => !existing.members.has(keys.id));
  tally.add("members", tasks.length - strangers.length);
  await addMembers(valkey, plan, strangers, (count) => tally.add("members", count));
  const edges = tasks.flatMap(({ outgoing }) => outgoing.map(({ edge }) => edge));
  await stageEdges(valkey, plan, edges, {
    someMayExist: existing.flowExists,
    onStaged: (count) => tally.add("edges", count),
  });
}

function submissionOf(plan: Plan, workflow: Workflow, completionsSent: number): Submission {
  const byTask = new Map(plan.tasks.map(({ task, keys }) => [task.id, keys.id]));
  const executions = new Map<string, ExecutionId>();
  const tasks = new Map<ExecutionId, string>();
  for (const { id } of workflow.tasks) {
    const execution = byTask.get(id);
    if (execution === undefined) continue;
    executions.set(id, execution);
    tasks.set(execution, id);
  }
  return {
    flowId: plan.flow.id,
    partition: plan.flow.partition,
    executions,
    tasks,
    taskCount: plan.tasks.length,
    edgeCount: plan.edgeCount,
    completionsSent,
  };
}

/** Counts what is in place, for progress and for the message of a failure. */
class Tally {
  readonly #counts = { executions: 0, members: 0, edges: 0 };
  readonly #totals: { readonly tasksTotal: number; readonly edgesTotal: number };
  readonly #onProgress: ((progress: SubmitProgress) => void) | undefined;

  constructor(plan: Plan, onProgress: ((progress: SubmitProgress) => void) | undefined) {
    this.#totals = { tasksTotal: plan.tasks.length, edgesTotal: plan.edgeCount };
    this.#onProgress = onProgress;
  }

  add(what: "executions" | "members" | "edges", count: number): void {
    if (count === 0) return;
    this.#counts[what] += count;
    this.#onProgress?.({ ...this.#counts, ...this.#totals });
  }

  text(): string {
    const { executions, members, edges } = this.#counts;
    const { tasksTotal, edgesTotal } = this.#totals;
    return (
      `known to be in place: ${executions} of ${tasksTotal} executions, ${members} of them in the flow, ` +
      `${edges} of ${edgesTotal} edges; submitting again with this flow id is safe and goes on from there`
    );
  }
}
