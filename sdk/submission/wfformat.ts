import * as z from "zod/mini";
import { type ErrorList, quoted } from "#sdk/submission/error-list.ts";
import { buildWorkflow, edgeKey, type UncheckedEdge } from "#sdk/submission/validate-graph.ts";
import { validateSchema, wellFormed } from "#sdk/submission/validate-schema.ts";
import type { Workflow } from "#sdk/submission/workflow.ts";
import { parseLaneId, unwrap } from "#shared/contract/ids.ts";

const LANE = unwrap(parseLaneId("default"));
const SPECIFICATION = "workflow.specification.tasks";

const id = z.string().check(z.minLength(1), wellFormed);

const specifiedTask = z.looseObject({
  id,
  name: z.optional(z.string()),
  parents: z.optional(z.array(id)),
  children: z.optional(z.array(id)),
});
type SpecifiedTask = z.output<typeof specifiedTask>;

const file = z.looseObject({
  name: z.string(),
  schemaVersion: z.literal("1.5"),
  workflow: z.looseObject({
    specification: z.looseObject({ tasks: z.array(specifiedTask).check(z.minLength(1)) }),
    execution: z.optional(
      z.looseObject({
        tasks: z.optional(
          z.array(z.looseObject({ id, runtimeInSeconds: z.optional(z.number().check(z.gte(0))) })),
        ),
      }),
    ),
  }),
});

/**
 * Reads WfFormat 1.5 (WfCommons), whole or cut down to tasks, edges and run times: properties beyond those
 * are let through. A task's payload is the JSON of its `name` and, where the file has it, the
 * `runtimeInSeconds` of the recorded run; lane `default`, priority 0, no retries, no data passing.
 *
 * An edge is written twice in this format, among the parent's `children` and the child's `parents`. A list
 * that is absent says nothing; lists that are there must agree.
 */
export function readWfFormat(value: unknown, errors: ErrorList): Workflow | undefined {
  const parsed = validateSchema(file, value, errors);
  if (parsed === undefined) return undefined;
  const { specification, execution } = parsed.workflow;
  const runtimes = new Map(execution?.tasks?.map((task) => [task.id, task.runtimeInSeconds]));
  const tasks = specification.tasks.map((task, number) => ({
    task: {
      id: task.id,
      lane: LANE,
      priority: 0,
      // A run time that the file lacks is left out by JSON.stringify.
      payload: JSON.stringify({ name: task.name ?? task.id, runtimeInSeconds: runtimes.get(task.id) }),
    },
    place: `${SPECIFICATION}[${number}]`,
  }));
  const edges = edgesOf(specification.tasks, errors);
  return buildWorkflow({ name: parsed.name, tasks, edges }, errors);
}

/** Every edge once, in the order of the children; what only a `children` list says comes behind. */
function edgesOf(tasks: readonly SpecifiedTask[], errors: ErrorList): UncheckedEdge[] {
  const byParents = listed(tasks, "parents");
  const byChildren = listed(tasks, "children");
  const parentsSaid = new Set(byParents.map(({ edge }) => edgeKey(edge.from, edge.to)));
  const childrenSaid = new Set(byChildren.map(({ edge }) => edgeKey(edge.from, edge.to)));
  const byId = new Map(tasks.map((task) => [task.id, task]));
  for (const { edge, place } of byParents) {
    if (byId.get(edge.from)?.children === undefined || childrenSaid.has(edgeKey(edge.from, edge.to)))
      continue;
    errors.add(
      place,
      `${quoted(edge.from)} does not name ${quoted(edge.to)} among its children; make both agree`,
    );
  }
  const onlyByChildren = byChildren.filter(({ edge, place }) => {
    if (parentsSaid.has(edgeKey(edge.from, edge.to))) return false;
    if (byId.get(edge.to)?.parents === undefined) return true;
    errors.add(
      place,
      `${quoted(edge.to)} does not name ${quoted(edge.from)} among its parents; make both agree`,
    );
    return false;
  });
  const repeated = repeatedChildren(byChildren, parentsSaid);
  return [...byParents, ...onlyByChildren, ...repeated];
}

function listed(tasks: readonly SpecifiedTask[], list: "parents" | "children"): UncheckedEdge[] {
  return tasks.flatMap((task, number) =>
    (task[list] ?? []).map((other, position) => ({
      edge:
        list === "parents"
          ? { from: other, to: task.id, dataPassing: false }
          : { from: task.id, to: other, dataPassing: false },
      place: `${SPECIFICATION}[${number}].${list}[${position}]`,
      names: list === "parents" ? ("from" as const) : ("to" as const),
    })),
  );
}

/** Entries that one `children` list has twice, although the edge is otherwise told by the `parents` list. */
function repeatedChildren(
  byChildren: readonly UncheckedEdge[],
  parentsSaid: ReadonlySet<string>,
): UncheckedEdge[] {
  const seen = new Set<string>();
  return byChildren.filter(({ edge }) => {
    const key = edgeKey(edge.from, edge.to);
    const again = seen.has(key);
    seen.add(key);
    return again && parentsSaid.has(key);
  });
}
