import { type AnyTask, defineTask } from "#sdk/kit/define-task.ts";
import { DEFAULT_KIND } from "#sdk/submission/executions.ts";
import type { Submission } from "#sdk/submission/submit.ts";
import type { Workflow } from "#sdk/submission/workflow.ts";
import { type ExecutionId, parseExecutionId, unwrap } from "#shared/contract/ids.ts";

/**
 * One task for each lane and kind of a workflow. A real one would do work; these return the id of their task at once, or
 * fail if it is one of `failing`.
 */
export function simulatedTasks(
  { tasks }: Workflow,
  submission: Submission,
  failing: ReadonlySet<string>,
): AnyTask[] {
  const lanes = Map.groupBy(tasks, ({ lane }) => lane);
  return [...lanes].flatMap(([lane, own]) =>
    [...new Set(own.map(({ kind = DEFAULT_KIND }) => kind))].map((kind) =>
      defineTask({
        kind,
        lane,
        run: (_input, { executionId }) =>
          simulate(submission, unwrap(parseExecutionId(executionId)), failing),
      }),
    ),
  );
}

function simulate(
  { tasks }: Submission,
  id: ExecutionId,
  failing: ReadonlySet<string>,
): { readonly task: string } {
  const task = tasks.get(id) ?? id;
  if (failing.has(task)) throw new Error(`${task} fails as requested`);
  return { task };
}
