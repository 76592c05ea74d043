import { randomUUID } from "node:crypto";
import { z } from "zod";
import { writeInput } from "#operate/change-report.ts";
import { writeOperation } from "#operate/operation.ts";
import { parseWorkflow } from "#sdk/submission/parse.ts";
import { submitFlow } from "#sdk/submission/submit.ts";
import type { Workflow } from "#sdk/submission/workflow.ts";
import { parseFlowId } from "#shared/contract/ids.ts";
import { ConfigurationError, InvalidRequestError, SubmissionError } from "#shared/errors.ts";

/** Below the 6 MB of a request to a Lambda function, with room for escaped characters. */
const MAX_CHARACTERS = 5_000_000;

export const submitted = z.object({
  dry_run: z.boolean(),
  flow_id: z.string().describe("The id of the flow. A dry run submits nothing under it"),
  name: z.string(),
  tasks: z.number(),
  edges: z.number(),
  lanes: z
    .array(z.object({ lane: z.string(), tasks: z.number() }))
    .describe("The lanes that need a worker, and how many tasks each has"),
  warnings: z.array(z.string()).describe("What the file has and the submission ignores"),
});
export type Submitted = z.infer<typeof submitted>;

/** Submits a workflow. Submitting the same workflow with the same flow id again completes it, and changes nothing else. */
export const submit = writeOperation({
  name: "submit",
  input: z.strictObject({
    ...writeInput,
    workflow: z
      .string()
      .max(MAX_CHARACTERS)
      .describe("The text of the file: Sluice's JSON format, or WfFormat"),
    source: z.string().max(200).default("the workflow").describe("The name of the file, for errors"),
    flow: z.string().optional().describe("The flow id, a UUID. A new one if omitted"),
  }),
  output: submitted,
  target: ({ flow, source }) => flow ?? source,
  async run({ valkey, router, completions, ready }, { workflow: text, source, flow, dry_run: isDryRun }) {
    const flowId = parseFlowId(flow ?? randomUUID());
    if (!flowId.ok) throw new InvalidRequestError([flowId.error.message]);
    const parsed = parseWorkflow(text, source);
    if (!parsed.ok) throw new InvalidRequestError(parsed.errors);
    const { value: workflow, warnings } = parsed;
    if (!isDryRun) {
      if (completions === undefined) {
        throw new ConfigurationError([
          "COMPLETIONS_QUEUE_URL is not set: expected the URL of the completions queue",
        ]);
      }
      try {
        await submitFlow({ valkey, router, completions, ready }, workflow, { flowId: flowId.value });
      } catch (error) {
        // A repetition fails in the same way: the flow id is in use, or the loaded library lacks what the workflow needs.
        if (error instanceof SubmissionError && !error.retryable)
          throw new InvalidRequestError([error.message]);
        throw error;
      }
    }
    return {
      dry_run: isDryRun,
      flow_id: flowId.value,
      name: workflow.name,
      tasks: workflow.tasks.length,
      edges: workflow.edges.length,
      lanes: lanesOf(workflow),
      warnings: [...warnings],
    };
  },
});

function lanesOf({ tasks }: Workflow): Submitted["lanes"] {
  return [...Map.groupBy(tasks, ({ lane }) => lane)].map(([lane, { length }]) => ({ lane, tasks: length }));
}
