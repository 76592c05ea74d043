import * as z from "zod/mini";
import type { ErrorList } from "#sdk/submission/error-list.ts";
import { buildWorkflow, type UncheckedEdge } from "#sdk/submission/validate-graph.ts";
import { validateSchema, wellFormed } from "#sdk/submission/validate-schema.ts";
import { type Backoff, MAX_PRIORITY, type RetryPolicy, type Workflow } from "#sdk/submission/workflow.ts";
import { parseLaneId, unwrap } from "#shared/contract/ids.ts";

const DEFAULT_LANE = unwrap(parseLaneId("default"));
const DEFAULT_BACKOFF: Backoff = { type: "fixed", delayMs: 1_000 };
const MAX_RETRIES = 1_000;
const MAX_DELAY_MS = 30 * 24 * 3_600_000;

const text = z.string().check(z.minLength(1), wellFormed);
const delayMs = z.int().check(z.gte(0), z.lte(MAX_DELAY_MS));

const lane = z.pipe(
  z.string(),
  z.transform((value, context) => {
    const parsed = parseLaneId(value);
    if (parsed.ok) return parsed.value;
    context.issues.push({ code: "custom", message: parsed.error.message, input: value });
    return z.NEVER;
  }),
);

const backoff = z.discriminatedUnion(
  "type",
  [
    z.strictObject({ type: z.literal("fixed"), delayMs }),
    z.strictObject({
      type: z.literal("exponential"),
      initialDelayMs: delayMs,
      maxDelayMs: z._default(delayMs, MAX_DELAY_MS),
      multiplier: z._default(z.number().check(z.gte(1), z.lte(100)), 2),
    }),
  ],
  'must be an object whose "type" is "fixed" or "exponential"',
);

const retry = z.strictObject({
  maxRetries: z.int().check(z.gte(0), z.lte(MAX_RETRIES)),
  backoff: z._default(backoff, DEFAULT_BACKOFF),
});

const dependency = z.union(
  [text, z.strictObject({ task: text, passData: z.optional(z.boolean()) })],
  'must be the id of a task, or an object like {"task": "the id", "passData": true}',
);

const specification = z.strictObject({
  name: text,
  tasks: z
    .array(
      z.strictObject({
        id: text,
        lane: z.optional(lane),
        priority: z.optional(z.int().check(z.gte(0), z.lte(MAX_PRIORITY))),
        payload: z.optional(z.unknown()),
        retry: z.optional(retry),
        dependsOn: z.optional(z.array(dependency)),
      }),
    )
    .check(z.minLength(1)),
});

/**
 * Reads Sluice's own JSON format:
 *
 * ```json
 * {
 *   "name": "a name",
 *   "tasks": [
 *     { "id": "a", "lane": "gpu", "priority": 5, "payload": { "any": "JSON" },
 *       "retry": { "maxRetries": 3, "backoff": { "type": "fixed", "delayMs": 500 } } },
 *     { "id": "b", "dependsOn": ["a"] },
 *     { "id": "c", "dependsOn": ["b", { "task": "a", "passData": true }],
 *       "retry": { "maxRetries": 3, "backoff": { "type": "exponential", "initialDelayMs": 100,
 *                                                "maxDelayMs": 60000, "multiplier": 2 } } }
 *   ]
 * }
 * ```
 *
 * Only `name`, `tasks` and each `id` are required. Defaults: lane `default`, priority 0 (the highest is 9000), an empty
 * payload. A payload that is a string is stored as it is, any other JSON as its text. Without `retry` a failure is
 * final. Without `backoff` a retry waits one second. Unknown properties are errors.
 */
export function readNativeFormat(value: unknown, errors: ErrorList): Workflow | undefined {
  const file = validateSchema(specification, value, errors);
  if (file === undefined) return undefined;
  const edges: UncheckedEdge[] = [];
  const tasks = file.tasks.map((entry, number) => {
    const path = `tasks[${number}]`;
    for (const [position, item] of (entry.dependsOn ?? []).entries()) {
      const { task: from, passData = false } = typeof item === "string" ? { task: item } : item;
      edges.push({
        edge: { from, to: entry.id, dataPassing: passData },
        path: `${path}.dependsOn[${position}]`,
        namedEnd: "from",
      });
    }
    const task = {
      id: entry.id,
      lane: entry.lane ?? DEFAULT_LANE,
      priority: entry.priority ?? 0,
      payload: payloadText(entry.payload, `${path}.payload`, errors),
    };
    const retryPolicy: RetryPolicy | undefined = entry.retry;
    return { task: retryPolicy === undefined ? task : { ...task, retryPolicy }, path };
  });
  return buildWorkflow({ name: file.name, tasks, edges }, errors);
}

function payloadText(payload: unknown, path: string, errors: ErrorList): string {
  if (payload === undefined) return "";
  if (typeof payload === "string") return payload;
  try {
    return JSON.stringify(payload);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    errors.add(path, "is nested too deeply: pass it as a string");
    return "";
  }
}
