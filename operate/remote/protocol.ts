/**
 * What the command sends to the functions `operate-read` and `operate-write`, and what they answer. Both sides must have the
 * same version: operations and their schemas change with it.
 */

import { z } from "zod";

/** The functions by what their operations do. Their full names begin with `sluice-<stage>-`. */
export const FUNCTION_NAMES = { read: "operate-read", write: "operate-write" } as const;

/**
 * The largest event and answer, in bytes. Lambda limits both to 6 MiB, and replaces a longer answer with an error that does
 * not say what to do.
 */
export const MAX_PAYLOAD_BYTES = 6_000_000;

const MAX_NAME = 100;
const MAX_ACTOR = 256;

export const remoteRequest = z.object({
  version: z.string().max(MAX_NAME),
  operation: z.string().max(MAX_NAME),
  input: z.unknown(),
  actor: z.string().min(1).max(MAX_ACTOR),
});

export type RemoteRequest = z.infer<typeof remoteRequest>;

/**
 * Why a function did not run an operation, or could not return its answer.
 * - `invalid_request`: the request or the input of the operation is wrong. Nothing was changed.
 * - `other_version`: the function has another version than the command. Nothing was changed.
 * - `answer_too_large`: the answer is longer than Lambda permits. The operation ran.
 */
export const REFUSALS = ["invalid_request", "other_version", "answer_too_large"] as const;

export const remoteAnswer = z.discriminatedUnion("ok", [
  z.object({ version: z.string(), ok: z.literal(true), output: z.unknown() }),
  z.object({
    version: z.string(),
    ok: z.literal(false),
    code: z.enum(REFUSALS),
    errors: z.array(z.string()).min(1),
  }),
]);

export type RemoteAnswer = z.infer<typeof remoteAnswer>;
