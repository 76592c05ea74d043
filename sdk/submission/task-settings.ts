/**
 * The optional properties of a task, with their limits. Workflow files and the API have the same ones. The descriptions
 * are those of schema/workflow.json.
 */

import * as z from "zod/mini";
import { describeValue, wellFormed } from "#sdk/submission/validate-schema.ts";
import type { Backoff } from "#sdk/submission/workflow.ts";

const DEFAULT_BACKOFF: Backoff = { type: "fixed", delayMs: 1_000 };
const MAX_RETRIES = 1_000;
const MAX_RETRY_DELAY_MS = 30 * 24 * 3_600_000;
const MAX_TIMEOUT_SECONDS = 30 * 24 * 3_600;
/** One year. */
const MAX_WAIT_SECONDS = 365 * 24 * 3_600;
/** Ten years. */
const MAX_RETENTION_HOURS = 10 * 365 * 24;
/** Valkey works in milliseconds. */
const MIN_SECONDS = 0.001;
const MAX_PRIORITY = 9_000;

const LABEL = "a text of 1 to 64 printable ASCII characters";
const TIME =
  'a time like "2030-01-31T18:00:00Z", with time zone, or a number of seconds after the submission';

/** Text that is not empty and has an encoding. */
export const text = z.string().check(z.minLength(1), wellFormed);

/** Text with the characters of a lane (contract, section 1). */
export const label = z
  .string()
  .check(z.regex(/^[ -~]{1,64}$/, { error: ({ input }) => `must be ${LABEL}, not ${describeValue(input)}` }));

const retryDelayMs = z.int().check(z.gte(0), z.lte(MAX_RETRY_DELAY_MS));

const backoff = z.discriminatedUnion(
  "type",
  [
    z.strictObject({ type: z.literal("fixed"), delayMs: retryDelayMs }),
    z.strictObject({
      type: z.literal("exponential"),
      initialDelayMs: retryDelayMs,
      maxDelayMs: z._default(retryDelayMs, MAX_RETRY_DELAY_MS),
      multiplier: z._default(z.number().check(z.gte(1), z.lte(100)), 2),
    }),
  ],
  'must be an object whose "type" is "fixed" or "exponential"',
);

const attempts = described(
  z.int().check(z.gte(1), z.lte(MAX_RETRIES + 1)),
  "All attempts together, the first one included.",
);

const retry = z
  .strictObject({
    attempts: z.optional(attempts),
    maxRetries: described(
      z.optional(z.int().check(z.gte(0), z.lte(MAX_RETRIES))),
      "The older form: attempts after the first one. Prefer attempts.",
    ),
    backoff: described(
      z._default(backoff, DEFAULT_BACKOFF),
      "The delay before the next attempt. Default: one second.",
    ),
  })
  .check(...exactlyOne("attempts", "maxRetries"));

/** The API has one form of a retry policy. */
export const retryPolicy = z.strictObject({ attempts, backoff });

const waitFor = z
  .strictObject({
    anyOf: described(z.optional(z.literal(true)), "One dependency must succeed."),
    quorum: described(
      z.optional(z.int().check(z.gte(1), z.lte(999_999_999))),
      "So many dependencies must succeed.",
    ),
    onSatisfied: described(
      z._default(z.enum(["cancelRemaining", "letRun"]), "letRun"),
      "What happens to the other dependencies once it is decided: they are cancelled, or they run on (the default).",
    ),
  })
  .check(...exactlyOne("anyOf", "quorum"));

const deadline = z.union(
  [
    z.iso.datetime({ offset: true, error: ({ input }) => `must be ${TIME}, not ${describeValue(input)}` }),
    z.number().check(z.gte(MIN_SECONDS), z.lte(MAX_WAIT_SECONDS)),
  ],
  `must be ${TIME}`,
);

export const taskSettings = {
  priority: described(
    z.optional(z.int().check(z.gte(0), z.lte(MAX_PRIORITY))),
    "Workers claim higher priorities first. Default: 0.",
  ),
  kind: described(z.optional(label), "What kind of work it is, for workers and tools. Default: task."),
  retry: described(z.optional(retry), "Retries after a failure. Without it, a failure is final."),
  timeoutSeconds: described(
    z.optional(z.number().check(z.gte(MIN_SECONDS), z.lte(MAX_TIMEOUT_SECONDS))),
    "How long one attempt may run before the task expires.",
  ),
  maxReclaims: described(
    z.optional(z.int().check(z.gte(0), z.lte(MAX_RETRIES))),
    "How often the task may be taken over from a worker that lost its lease, before it fails. Default: 5.",
  ),
  delaySeconds: described(
    z.optional(z.number().check(z.gte(0), z.lte(MAX_WAIT_SECONDS))),
    "The task does not run before this time after the submission, even if its dependencies succeeded earlier.",
  ),
  deadline: described(
    z.optional(deadline),
    "The task expires if it has not ended by then: a time in ISO 8601 with time zone, or seconds after the submission.",
  ),
  retentionHours: described(
    z.optional(z.int().check(z.gte(1), z.lte(MAX_RETENTION_HOURS))),
    "Keeps the task's record at least so long after its end. It can only prolong the retention of the deployment.",
  ),
  waitFor: described(
    z.optional(waitFor),
    "How many of the dependencies must succeed, in place of all. Needs the 14-KEYS edition of the library.",
  ),
};

/** Describes a schema that is used once: the description belongs to the object. */
export function described<S extends z.ZodMiniType>(schema: S, description: string): S {
  z.globalRegistry.add(schema, { description });
  return schema;
}

/** Checks that an object has one of two properties. JSON Schema needs the rule in its own words. */
function exactlyOne(first: string, second: string) {
  const hasOne = (value: Readonly<Record<string, unknown>>): boolean =>
    (value[first] === undefined) !== (value[second] === undefined);
  return [
    z.refine<Readonly<Record<string, unknown>>>(hasOne, {
      error: `must have either "${first}" or "${second}"`,
      // Reports it together with the errors of other properties.
      when: ({ value }) => typeof value === "object" && value !== null,
    }),
    z.meta({ oneOf: [{ required: [first] }, { required: [second] }] }),
  ] as const;
}
