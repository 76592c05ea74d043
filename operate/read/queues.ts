import { z } from "zod";
import { readOperation } from "#operate/operation.ts";
import { messageOf } from "#shared/errors.ts";
import { readQueueCounts } from "#shared/queue/backlog.ts";

const queue = z.object({
  queue: z.enum(["completions", "dead_letters", "ready"]),
  lane: z.string().optional().describe("Of a ready queue"),
  visible: z.number().optional(),
  in_flight: z.number().optional().describe("With a consumer, or hidden until a later time"),
  delayed: z.number().optional(),
  error: z.string().optional().describe("Why the queue could not be read"),
});

/** Counts the messages of each queue that the environment names, as SQS does. Receives none. */
export const queues = readOperation({
  name: "queues",
  runsUnchecked: true,
  input: z.strictObject({}),
  output: z.object({ queues: z.array(queue) }),
  async run({ sqs, queues: { completions, deadLetters, ready } }) {
    const named = [
      ...(completions === undefined ? [] : [{ queue: "completions" as const, url: completions }]),
      ...(deadLetters === undefined ? [] : [{ queue: "dead_letters" as const, url: deadLetters }]),
      ...[...ready].map(([lane, url]) => ({ queue: "ready" as const, lane: String(lane), url })),
    ];
    return {
      queues: await Promise.all(
        named.map(async ({ url, ...rest }) => {
          try {
            const { visible, inFlight, delayed } = await readQueueCounts(sqs, url);
            return { ...rest, visible, in_flight: inFlight, delayed };
          } catch (error) {
            return { ...rest, error: messageOf(error) };
          }
        }),
      ),
    };
  },
});
