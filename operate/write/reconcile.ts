import { z } from "zod";
import { writeInput } from "#operate/change-report.ts";
import { writeOperation } from "#operate/operation.ts";
import { reconcileReport, reconcileSlice } from "#operate/reconcile/sweep.ts";
import { parseFlowId } from "#shared/contract/ids.ts";
import { TASK_NAMES } from "#shared/reconcile/task-names.ts";

/** Sweeps now, as the scheduled reconciler does. */
export const reconcile = writeOperation({
  name: "reconcile",
  input: z.strictObject({
    ...writeInput,
    flow: z
      .string()
      .superRefine((text, check) => {
        const parsed = parseFlowId(text);
        if (!parsed.ok) check.addIssue({ code: "custom", message: parsed.error.message });
      })
      .optional()
      .describe("Sweep only the partition of this flow"),
    tasks: z
      .array(z.enum(TASK_NAMES))
      .min(1)
      .optional()
      .describe("Default: all that the deployment's library needs, but retention, which deletes flows"),
  }),
  output: reconcileReport,
  target: ({ flow, tasks }) =>
    `sweep of ${flow === undefined ? "all partitions" : `the partition of flow ${flow}`}: ${tasks?.join(", ") ?? "all tasks"}`,
  run: (context, { dry_run: isDryRun, flow, tasks, cursor }) =>
    reconcileSlice(context, { isDryRun, flow, tasks, cursor }),
});
