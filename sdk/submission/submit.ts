/**
 * Submits a workflow: creates its flow and executions, adds the executions to the flow and stages the edges.
 *
 * A submission can be repeated, and can run twice at the same time with the same flow id. If it crashes at any point,
 * the next submission completes it. This works because:
 * - ids are derived from the flow id and the task ids, and every function accepts what already exists;
 * - a child is created together with its dependencies, so it is blocked from the start;
 * - roots are created with a delay that does not end by itself, and are released last: nothing can run before;
 * - delays and deadlines relative to the submission count from the creation of the flow, which is recorded (times.ts);
 * - if an execution ended before its edges were staged (Sluice 0.1 did not hold roots), the submission publishes its
 *   completion once more;
 * - released roots are announced to their workers before the flow is marked as complete, and marked one by one: the next
 *   submission announces those that are not marked.
 *
 * The flow's record says whether its submission is complete (marks.ts).
 */

import { announceRoots } from "#sdk/submission/announce-roots.ts";
import { addMembers, stageEdges } from "#sdk/submission/edges.ts";
import { createExecutions } from "#sdk/submission/executions.ts";
import { type ExistingFlow, readExistingFlow } from "#sdk/submission/existing-flow.ts";
import { recordLanes } from "#sdk/submission/lanes.ts";
import { markCompleted, markStarted } from "#sdk/submission/marks.ts";
import { sendMissedCompletions } from "#sdk/submission/missed-completions.ts";
import { type Plan, planSubmission } from "#sdk/submission/plan.ts";
import { releaseRoots } from "#sdk/submission/roots.ts";
import { workflowErrors } from "#sdk/submission/validate-workflow.ts";
import type { Workflow } from "#sdk/submission/workflow.ts";
import { command, type Pipelines } from "#shared/contract/command.ts";
import type { ExecutionId, FlowId, Partition } from "#shared/contract/ids.ts";
import { validTraceparent } from "#shared/contract/message.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText } from "#shared/contract/record.ts";
import { createFlow } from "#shared/contract/submission.ts";
import { InvalidRecordError, messageOf, RefusedError, SubmissionError } from "#shared/errors.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import type { ReadyPublisher } from "#shared/ready/publisher.ts";
import { doneOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";

/** What a submission needs. A `Connection` has all of it. */
export interface SubmitDependencies {
  readonly valkey: Pipelines;
  readonly router: PartitionRouter;
  readonly completions: CompletionPublisher;
  /** Announces the roots to the workers of their lanes. Undefined: no lane has a ready queue, and workers poll. */
  readonly ready?: ReadyPublisher | undefined;
}

/** Options of `submitFlow`. */
export interface SubmitOptions {
  /** A UUID. The same workflow with the same flow id is the same submission. */
  readonly flowId: FlowId;
  /** `default` if omitted. */
  readonly namespace?: string;
  /**
   * W3C trace context. It is passed on to each task of the flow, in `context.traceparent`. A malformed one is ignored, as the
   * standard demands.
   */
  readonly traceparent?: string;
  /** Called after every pipeline that created something. */
  readonly onProgress?: (progress: SubmitProgress) => void;
}

/** How much of the workflow is known to exist in Valkey. */
export interface SubmitProgress {
  readonly executions: number;
  readonly members: number;
  readonly edges: number;
  readonly tasksTotal: number;
  readonly edgesTotal: number;
}

/** A submitted flow. */
export interface Submission {
  readonly flowId: FlowId;
  readonly partition: Partition;
  /** Execution ids by task id, in the workflow's order. */
  readonly executions: ReadonlyMap<string, ExecutionId>;
  /** Task ids by execution id. */
  readonly tasks: ReadonlyMap<ExecutionId, string>;
  readonly taskCount: number;
  readonly edgeCount: number;
  /** Completions published again because their executions ended before their edges were staged. */
  readonly completionsSent: number;
}

const FLOW_KIND = "dag";
const DEFAULT_NAMESPACE = "default";
/** What to do after a refusal that another submission with the same flow id does not correct, by code. */
const ADVICE: ReadonlyMap<string, string> = new Map([
  [
    "cycle_detected",
    "the workflow has no cycle: FlowFabric's library reports one when its search reaches 1,000 nodes, which happens if " +
      "another client staged some of the edges in another order; submit the workflow with another flow id, or load " +
      "Sluice's library and submit again",
  ],
  [
    "flow_purged",
    "the flow ended and was deleted after its retention: submit the workflow with another flow id to run it again",
  ],
  ["flow_already_terminal", "the flow was cancelled: submit the workflow with another flow id"],
  ["flow_purged", "the flow has ended and was deleted: submit the workflow with another flow id"],
]);

/**
 * Submits a workflow. Its roots can run as soon as all of the workflow exists. The `flowfabric` library must be loaded.
 *
 * @throws SubmissionError that says how much of the workflow exists. If it is `retryable`, submit again with the same
 * flow id to complete the flow. If not, submitting again fails in the same way, and the message gives the reason: for
 * example errors in the workflow (all of them), a flow id that is in use, or a cancelled flow.
 *
 * @example
 * const parsed = parseWorkflow(await readFile("nightly.json", "utf8"), "nightly.json");
 * if (!parsed.ok) throw new Error(parsed.errors.join("\n"));
 * const flowId = unwrap(parseFlowId(randomUUID()));
 * using sluice = await connect();
 * const submission = await submitFlow(sluice, parsed.value, { flowId });
 * submission.executions.get("fetch"); // "{fp:42}:0f8c…"
 */
export async function submitFlow(
  { valkey, router, completions, ready }: SubmitDependencies,
  workflow: Workflow,
  options: SubmitOptions,
): Promise<Submission> {
  const { flowId, namespace = DEFAULT_NAMESPACE } = options;
  const errors = workflowErrors(workflow);
  if (errors.length > 0) {
    throw new SubmissionError(["the workflow is invalid; nothing was written:", ...errors].join("\n"), {
      retryable: false,
    });
  }
  const plan = planSubmission(router, workflow, flowId, namespace);
  const progress = new ProgressCounter(plan, options.onProgress);
  try {
    const existing = await createOrReadFlow(valkey, plan, workflow.name);
    const submittedAtMs = submissionTime(plan, existing);
    await createMissing(valkey, plan, existing, submittedAtMs, progress);
    await stageEdges(valkey, plan, (count) => progress.add("edges", count));
    // No execution that this submission creates can end before its edges are staged.
    const mayHaveEnded = existing.executions.size > 0;
    const completionsSent = mayHaveEnded ? await sendMissedCompletions(valkey, completions, plan) : 0;
    await releaseRoots(valkey, plan, submittedAtMs);
    if (ready !== undefined) await announceRoots(valkey, ready, plan, validTraceparent(options.traceparent));
    if (!existing.isMarkedCompleted) valueOrThrow((await valkey.pipelined([markCompleted(plan.flow)]))[0]);
    return toSubmission(plan, workflow, completionsSent);
  } catch (error) {
    if (error instanceof SubmissionError && !error.retryable) throw error;
    const advice = error instanceof RefusedError ? ADVICE.get(error.code) : undefined;
    throw new SubmissionError(
      `submitting flow ${flowId} failed: ${messageOf(error)}; ${progress.describe()}; ` +
        (advice ?? "it is safe to submit again with this flow id"),
      { retryable: advice === undefined, cause: error },
    );
  }
}

/** Records the lanes, creates the flow if it does not exist, and returns what it already contains. */
async function createOrReadFlow(valkey: Pipelines, plan: Plan, name: string): Promise<ExistingFlow> {
  const existing = await readExistingFlow(valkey, plan);
  await recordLanes(valkey, plan);
  if (existing.isMarkedStarted) return existing;
  const { flow, index, namespace } = plan;
  const [created, marked, createdAt] = await valkey.pipelined([
    createFlow(flow, index, FLOW_KIND, namespace, Date.now()),
    markStarted(flow, index, name, plan.tasks.length),
    command(flow.partition, "hget", flow.core, "created_at"),
  ]);
  const { status } = doneOrThrow("ff_create_flow", valueOrThrow(created));
  valueOrThrow(marked);
  if (existing.flowExists) return existing;
  // If another submitter created the flow meanwhile, read what it has written since.
  if (status !== "OK") return readExistingFlow(valkey, plan);
  return { ...existing, createdAt: fieldText(valueOrThrow(createdAt)) };
}

function submissionTime({ flow }: Plan, { createdAt }: ExistingFlow): number {
  const time = Number(createdAt);
  if (Number.isSafeInteger(time) && time > 0) return time;
  throw new InvalidRecordError(`flow ${flow.id} has an invalid created_at: ${JSON.stringify(createdAt)}`);
}

/** Creates the missing executions, upstreams first, and makes all executions members of the flow. */
async function createMissing(
  valkey: Pipelines,
  plan: Plan,
  existing: ExistingFlow,
  submittedAtMs: number,
  progress: ProgressCounter,
): Promise<void> {
  const { tasks } = plan;
  const missing = tasks.filter(({ keys }) => !existing.executions.has(keys.id));
  progress.add("executions", tasks.length - missing.length);
  await createExecutions(valkey, plan, missing, submittedAtMs, (count) => progress.add("executions", count));
  const nonMembers = tasks.filter(({ keys }) => !existing.members.has(keys.id));
  progress.add("members", tasks.length - nonMembers.length);
  await addMembers(valkey, plan, nonMembers, (count) => progress.add("members", count));
}

function toSubmission(plan: Plan, workflow: Workflow, completionsSent: number): Submission {
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

/** Counts what exists, for progress reports and error messages. */
class ProgressCounter {
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

  describe(): string {
    const { executions, members, edges } = this.#counts;
    const { tasksTotal, edgesTotal } = this.#totals;
    return (
      `at least ${executions} of ${tasksTotal} executions, ${members} of ${tasksTotal} memberships and ` +
      `${edges} of ${edgesTotal} edges exist`
    );
  }
}
