import { z } from "zod";
import { EDGES_CURSOR } from "#operate/explain/edges.ts";
import { explain as explainExecution, explanationSchema } from "#operate/explain/explain.ts";
import { readOperation } from "#operate/operation.ts";
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
  input: z.strictObject({
    execution: executionId,
    flow: flowId.optional().describe("The flow that the execution should be in, for one that has no record"),
    edges: z.int().min(1).max(MAX_EDGES).default(100).describe("Incoming edges on a page, at least about"),
    cursor: z
      .string()
      .regex(EDGES_CURSOR, "is not a cursor of this command: use edges.next of its last answer")
      .optional(),
  }),
  output: explanationSchema,
  run: (context, { execution, flow, edges, cursor }) =>
    explainExecution(context, {
      id: unwrap(parseExecutionId(execution)),
      flowId: flow === undefined ? undefined : unwrap(parseFlowId(flow)),
      edges,
      cursor,
    }),
});
