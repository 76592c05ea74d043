/** The answer of operations that change executions, flows or lanes. */

import { z } from "zod";
import type { WriteInput } from "#operate/operation.ts";

/** How many targets one call changes at most: the caller asks for the next page with the cursor. */
export const MAX_CHANGES = 500;

const MAX_REASON = 1_000;

/** The shape of `WriteInput`, to be extended with `z.strictObject({ ...writeInput, … })`. */
export const writeInput = {
  dry_run: z.boolean().default(false),
  reason: z.string().max(MAX_REASON).default(""),
  cursor: z.string().optional(),
} as const satisfies { readonly [Name in keyof WriteInput]: z.ZodType };

export const CHANGE_STATUSES = ["would_change", "changed", "unchanged", "failed"] as const;

const change = z.object({
  target: z.string().describe("The id of the execution or flow, or the name of the lane or message"),
  task: z
    .string()
    .optional()
    .describe("The id of the execution's task in its workflow. Missing if its submission recorded none"),
  status: z
    .enum(CHANGE_STATUSES)
    .describe(
      "would_change: a dry run found that the change is possible. changed: done. unchanged: nothing to do, or the state has " +
        "changed meanwhile and forbids it. failed: an error; run the command again",
    ),
  text: z.string().describe("What happens to the target, or why not, as a sentence"),
  code: z.string().optional().describe("The code of a refusal or an error"),
});

export const changeReport = z.object({
  dry_run: z.boolean(),
  changes: z
    .array(change)
    .describe("One entry for each target of this page. A command prints all pages as one"),
  next: z.string().optional().describe("The cursor of the next page. Missing on the last page"),
});

/** What becomes of one target. */
export type Change = z.infer<typeof change>;
/** One page of changes. */
export type ChangeReport = z.infer<typeof changeReport>;
