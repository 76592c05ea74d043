import { z } from "zod";
import { browse } from "#operate/dead-letters/browse.ts";
import { executionOf, explainLetters } from "#operate/dead-letters/explain.ts";
import { describeLetter, letterReport } from "#operate/dead-letters/letter.ts";
import { filterOf, letterSelection } from "#operate/dead-letters/selection.ts";
import { readOperation } from "#operate/operation.ts";

const MAX_LETTERS = 1_000;
/** Executions that a list explains: each takes some round trips. */
const MAX_EXPLAINED = 100;

/** Lists dead letters with their reasons. It consumes none: it receives messages, and makes them visible again. */
export const listDeadLetters = readOperation({
  name: "dlq.list",
  input: z.strictObject({
    ...letterSelection,
    limit: z.int().min(1).max(MAX_LETTERS).default(100),
  }),
  output: z.object({
    messages: z.array(letterReport).describe("The oldest first, of those that were looked at"),
    seen: z.number().describe("Messages that were looked at"),
    complete: z
      .boolean()
      .describe(
        "Whether the whole queue was looked at. Otherwise more messages may match: raise the limit, or filter",
      ),
    approximate_total: z.number().describe("Messages in the queue, as SQS counts them: approximate"),
    approximate_hidden: z
      .number()
      .describe("Of these, messages that others have received: they are shown when they are visible again"),
  }),
  async run(context, { limit, ...selected }) {
    const { letters, seen, isComplete, counts } = await browse(context, filterOf(selected), limit);
    const explanations = await explainLetters(context, letters, MAX_EXPLAINED);
    const nowMs = Date.now();
    return {
      messages: letters.map((letter) => {
        const id = executionOf(letter);
        return describeLetter(letter, id && explanations.get(id), nowMs, true);
      }),
      seen,
      complete: isComplete,
      approximate_total: counts.visible + counts.inFlight + counts.delayed,
      approximate_hidden: counts.inFlight,
    };
  },
});

const shownLetter = z.object({
  message: letterReport.optional().describe("Missing if it was not found"),
  attributes: z.record(z.string(), z.string()).optional().describe("Binary values are base64"),
  seen: z.number().describe("Messages that were looked at"),
  complete: z.boolean().describe("Whether the whole queue was looked at"),
});

/** Shows one dead letter whole. */
export const showDeadLetter = readOperation({
  name: "dlq.show",
  input: z.strictObject({ message_id: z.string().min(1).max(100) }),
  output: shownLetter,
  async run(context, { message_id: id }): Promise<z.infer<typeof shownLetter>> {
    const found = await browse(context, filterOf({ message_ids: [id] }), 1);
    const [letter] = found.letters;
    const searched = { seen: found.seen, complete: found.isComplete };
    if (letter === undefined) return searched;
    const executionId = executionOf(letter);
    const explanations = await explainLetters(context, [letter], 1);
    return {
      message: describeLetter(letter, executionId && explanations.get(executionId), Date.now(), false),
      attributes: Object.fromEntries(
        Object.entries(letter.attributes).map(([name, { StringValue: text, BinaryValue: bytes }]) => [
          name,
          text ?? Buffer.from(bytes ?? []).toString("base64"),
        ]),
      ),
      ...searched,
    };
  },
});
