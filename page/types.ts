/** The answers of the operations that the page shows. */

import type { z } from "zod";
import type { ChangeReport } from "#operate/change-report.ts";
import type { LetterReport } from "#operate/dead-letters/letter.ts";
import type { LetterChangeReport } from "#operate/dead-letters/slice.ts";
import type { listDeadLetters } from "#operate/read/dead-letters.ts";
import type { execution } from "#operate/read/execution.ts";
import type { explain } from "#operate/read/explain.ts";
import type { flows } from "#operate/read/flows.ts";
import type { lanes } from "#operate/read/lanes.ts";
import type { queues } from "#operate/read/queues.ts";
import type { submit } from "#operate/write/submit.ts";

type OutputOf<Operation extends { readonly output: z.ZodType }> = z.infer<Operation["output"]>;

export type FlowsOutput = OutputOf<typeof flows>;
export type FlowEntry = FlowsOutput["flows"][number];
export type ExecutionOutput = OutputOf<typeof execution>;
export type Explanation = OutputOf<typeof explain>;
export type LanesOutput = OutputOf<typeof lanes>;
export type LaneReport = LanesOutput["lanes"][number];
export type QueuesOutput = OutputOf<typeof queues>;
export type SubmitOutput = OutputOf<typeof submit>;
export type DeadLettersOutput = OutputOf<typeof listDeadLetters>;
export type { ChangeReport, LetterChangeReport, LetterReport as DeadLetter };
