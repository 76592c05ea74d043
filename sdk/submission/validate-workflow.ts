import * as z from "zod/mini";
import { ErrorList } from "#sdk/submission/error-list.ts";
import { label, retryPolicy, taskSettings, text } from "#sdk/submission/task-settings.ts";
import { buildWorkflow } from "#sdk/submission/validate-graph.ts";
import { validateSchema } from "#sdk/submission/validate-schema.ts";
import type { Workflow } from "#sdk/submission/workflow.ts";

/** The shape of a `Workflow`. Other properties are ignored. */
const shape = z.object({
  name: text,
  tasks: z.array(
    z.object({ ...taskSettings, id: text, lane: label, payload: z.string(), retry: z.optional(retryPolicy) }),
  ),
  edges: z.array(z.object({ from: z.string(), to: z.string(), dataPassing: z.boolean() })),
});

/**
 * Validates a workflow that an application built, with the rules of workflow files. Returns one line per error: position,
 * what is wrong and what to do.
 */
export function workflowErrors(workflow: Workflow): string[] {
  const errors = new ErrorList("");
  if (validateSchema(shape, workflow, errors) !== undefined) {
    const tasks = workflow.tasks.map((task, number) => ({ task, path: `tasks[${number}]` }));
    const edges = workflow.edges.map((edge, number) => ({
      edge,
      path: `edges[${number}]`,
      namedEnd: "from" as const,
    }));
    buildWorkflow({ name: workflow.name, tasks, edges }, errors);
  }
  return errors.list();
}
