import { z } from "zod";
import { letterChangeInput, letterChangeReport, runSlice, targetOf } from "#operate/dead-letters/slice.ts";
import { writeOperation } from "#operate/operation.ts";
import { METHODS, RATE } from "#shared/redrive/request.ts";

/** Sends dead letters to the completions queue again. Dispatching a completion again changes nothing. */
export const replayDeadLetters = writeOperation({
  name: "dlq.replay",
  input: z.strictObject({
    ...letterChangeInput,
    rate: z.number().min(RATE.min).max(RATE.max).default(RATE.defaultValue).describe("Messages per second"),
    method: z.enum(METHODS).default("auto"),
  }),
  output: letterChangeReport,
  target: (input) => targetOf(input),
  run: (context, { rate, method, ...input }) => runSlice(context, input, { isPurge: false, rate, method }),
});

/** Deletes dead letters. The reconciler recovers a completion that nothing else reports. */
export const purgeDeadLetters = writeOperation({
  name: "dlq.purge",
  input: z.strictObject(letterChangeInput),
  output: letterChangeReport,
  target: (input) => targetOf(input),
  run: (context, input) => runSlice(context, input, { isPurge: true, rate: RATE.max, method: "receive" }),
});
