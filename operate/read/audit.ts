import { z } from "zod";
import { readAudit } from "#operate/audit.ts";
import { readOperation } from "#operate/operation.ts";

const MAX_PAGE = 1_000;

/** Reads the audit trail, the newest entry first. */
export const audit = readOperation({
  name: "audit",
  input: z.strictObject({
    limit: z.int().min(1).max(MAX_PAGE).default(100),
    cursor: z
      .string()
      .regex(/^\d{1,15}-\d{1,15}$/, "is not a cursor of this command: use `next` of its last answer")
      .optional(),
  }),
  output: z.object({
    entries: z.array(
      z.object({
        id: z.string().describe("The id of the entry in the stream"),
        recorded_at: z.number().describe("Milliseconds since the epoch, by the clock of Valkey"),
        operation: z.string(),
        actor: z.string().describe("Who ran the command, as the command says"),
        target: z.string().describe("The execution, flow, lane or filter"),
        reason: z.string(),
      }),
    ),
    next: z.string().optional().describe("The cursor of the next page. Missing on the last page"),
  }),
  async run({ valkey }, { limit, cursor }) {
    // One more than shown, to know whether another page exists.
    const found = await readAudit(valkey, { before: cursor, limit: limit + 1 });
    const shown = found.slice(0, limit);
    const last = shown.at(-1);
    return {
      entries: shown.map(({ recordedAt, ...entry }) => ({ ...entry, recorded_at: recordedAt })),
      ...(found.length > limit && last !== undefined ? { next: last.id } : {}),
    };
  },
});
