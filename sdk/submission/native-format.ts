import * as z from "zod/mini";
import type { ErrorList } from "#sdk/submission/error-list.ts";
import { described, label, taskSettings, text } from "#sdk/submission/task-settings.ts";
import { buildWorkflow, type UncheckedEdge } from "#sdk/submission/validate-graph.ts";
import { validateSchema } from "#sdk/submission/validate-schema.ts";
import type { RetryPolicy, Task, Workflow } from "#sdk/submission/workflow.ts";
import { parseLaneId, unwrap } from "#shared/contract/ids.ts";

const DEFAULT_LANE = unwrap(parseLaneId("default"));

const dependency = z.union(
  [
    text,
    z.strictObject({
      task: text,
      passData: described(
        z.optional(z.boolean()),
        "The result of that task replaces the payload of this one.",
      ),
    }),
  ],
  'must be the id of a task, or an object like {"task": "the id", "passData": true}',
);

const task = z.strictObject({
  id: described(text.check(), "Unique in the file."),
  lane: described(z.optional(label), "Selects the workers that run the task. Default: default."),
  payload: described(
    z.optional(z.unknown()),
    "The worker's input: a string as it is, any other JSON as its text.",
  ),
  dependsOn: described(z.optional(z.array(dependency)), "The tasks that must succeed first."),
  ...taskSettings,
});

/** Sluice's own format. schema/workflow.json is generated from it. */
export const nativeFormat = z.strictObject({
  $schema: described(z.optional(z.string()), "For editors. Ignored."),
  name: described(text.check(), "The name of the workflow."),
  tasks: z.array(task).check(z.minLength(1)),
});

/**
 * Reads Sluice's own JSON format, which docs/workflows.md describes. Unknown properties are errors.
 *
 * ```json
 * {
 *   "name": "a name",
 *   "tasks": [
 *     { "id": "a", "lane": "gpu", "payload": { "any": "JSON" }, "retry": { "attempts": 3 } },
 *     { "id": "b", "dependsOn": ["a"], "timeoutSeconds": 60 },
 *     { "id": "c", "dependsOn": ["a", { "task": "b", "passData": true }], "waitFor": { "anyOf": true } }
 *   ]
 * }
 * ```
 */
export function readNativeFormat(value: unknown, errors: ErrorList): Workflow | undefined {
  const file = validateSchema(nativeFormat, value, errors);
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
    return { task: taskOf(entry, payloadText(entry.payload, `${path}.payload`, errors)), path };
  });
  return buildWorkflow({ name: file.name, tasks, edges }, errors);
}

function taskOf(entry: z.output<typeof task>, payload: string): Task {
  const { dependsOn: _, payload: __, lane: laneText, priority = 0, retry, ...rest } = entry;
  return {
    ...rest,
    lane: laneText === undefined ? DEFAULT_LANE : unwrap(parseLaneId(laneText)),
    priority,
    payload,
    ...(retry === undefined ? {} : { retry: retryPolicy(retry) }),
  };
}

function retryPolicy({
  attempts,
  maxRetries = 0,
  backoff,
}: NonNullable<z.output<typeof task>["retry"]>): RetryPolicy {
  return { attempts: attempts ?? maxRetries + 1, backoff };
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
