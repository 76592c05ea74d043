import { z } from "zod";
import { EDGES_CURSOR } from "#operate/explain/edges.ts";
import { explain as explainExecution, explanationSchema } from "#operate/explain/explain.ts";
import { readOperation } from "#operate/operation.ts";
import { executionIdOf } from "#sdk/submission/plan.ts";
import { parseExecutionId, parseFlowId, unwrap } from "#shared/contract/ids.ts";

const MAX_EDGES = 1_000;

const executionId = z.string().superRefine((text, check) => {
  const parsed = parseExecutionId(text);
  if (!parsed.ok) check.addIssue({ code: "custom", message: parsed.error.message });
});
const flowId = z.string().superRefine((text, check) => {
  const parsed = parseFlowId(text);
  if (!parsed.ok) check.addIssue({ code: "custom", message: parsed.error.message });
});

/** Names every condition that an execution waits for, or how and why it ended. */
export const explain = readOperation({
  name: "explain",
  // It reports a wrong partition count itself.
  runsUnchecked: true,
  input: z
    .strictObject({
      execution: executionId.optional(),
      flow: flowId
        .optional()
        .describe("With `task`, or the flow that an execution without a record should be in"),
      task: z.string().optional().describe("The id of a task of the flow, in place of `execution`"),
      edges: z.int().min(1).max(MAX_EDGES).default(100).describe("Incoming edges on a page, at least about"),
      cursor: z
        .string()
        .regex(EDGES_CURSOR, "is not a cursor of this command: use edges.next of its last answer")
        .optional(),
    })
    .refine(
      ({ execution, flow, task }) => (execution === undefined) === (flow !== undefined && task !== undefined),
      {
        message: "name one execution: by its id, or by its flow and the id of its task",
      },
    ),
  output: explanationSchema,
  run: (context, { execution, flow, task = "", edges, cursor }) => {
    const flowKeys = flow === undefined ? undefined : context.router.flowKeys(unwrap(parseFlowId(flow)));
    const id =
      execution === undefined && flowKeys !== undefined
        ? executionIdOf(flowKeys, task)
        : unwrap(parseExecutionId(execution));
    return explainExecution(context, {
      id,
      flowId: flowKeys?.id,
      edges,
      cursor,
    });
  },
});
