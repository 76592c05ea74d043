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
 * Reads WfFormat 1.5 (WfCommons). Only tasks, edges and run times are used; other properties are ignored. A task's
 * payload is the JSON of its `name` and, if the file has it, the `runtimeInSeconds` of the recorded run. Tasks get the
 * lane `default`, priority 0, no retries and no data passing.
 *
 * The format states each edge twice, in the parent's `children` and in the child's `parents`. Either list can be
 * absent. If both are present, they must agree.
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
      // JSON.stringify omits an undefined run time.
      payload: JSON.stringify({ name: task.name ?? task.id, runtimeInSeconds: runtimes.get(task.id) }),
    },
    path: `${SPECIFICATION}[${number}]`,
  }));
  const edges = readEdges(specification.tasks, errors);
  return buildWorkflow({ name: parsed.name, tasks, edges }, errors);
}

/** Every edge once: first those of the `parents` lists, then those that only a `children` list states. */
function readEdges(tasks: readonly SpecifiedTask[], errors: ErrorList): UncheckedEdge[] {
  const inParents = edgesInLists(tasks, "parents");
  const inChildren = edgesInLists(tasks, "children");
  const parentEdgeKeys = new Set(inParents.map(({ edge }) => edgeKey(edge.from, edge.to)));
  const childEdgeKeys = new Set(inChildren.map(({ edge }) => edgeKey(edge.from, edge.to)));
  const byId = new Map(tasks.map((task) => [task.id, task]));
  for (const { edge, path } of inParents) {
    if (byId.get(edge.from)?.children === undefined || childEdgeKeys.has(edgeKey(edge.from, edge.to)))
      continue;
    errors.add(
      path,
      `${quoted(edge.from)} does not name ${quoted(edge.to)} among its children: make both lists agree`,
    );
  }
  const onlyInChildren = inChildren.filter(({ edge, path }) => {
    if (parentEdgeKeys.has(edgeKey(edge.from, edge.to))) return false;
    if (byId.get(edge.to)?.parents === undefined) return true;
    errors.add(
      path,
      `${quoted(edge.to)} does not name ${quoted(edge.from)} among its parents: make both lists agree`,
    );
    return false;
  });
  const repeated = repeatedChildren(inChildren, parentEdgeKeys);
  return [...inParents, ...onlyInChildren, ...repeated];
}

function edgesInLists(tasks: readonly SpecifiedTask[], list: "parents" | "children"): UncheckedEdge[] {
  return tasks.flatMap((task, number) =>
    (task[list] ?? []).map((other, position) => ({
      edge:
        list === "parents"
          ? { from: other, to: task.id, dataPassing: false }
          : { from: task.id, to: other, dataPassing: false },
      path: `${SPECIFICATION}[${number}].${list}[${position}]`,
      namedEnd: list === "parents" ? ("from" as const) : ("to" as const),
    })),
  );
}

/** Repeated entries of a `children` list whose edge also appears in a `parents` list. */
function repeatedChildren(
  inChildren: readonly UncheckedEdge[],
  parentEdgeKeys: ReadonlySet<string>,
): UncheckedEdge[] {
  const seen = new Set<string>();
  return inChildren.filter(({ edge }) => {
    const key = edgeKey(edge.from, edge.to);
    const isRepeated = seen.has(key);
    seen.add(key);
    return isRepeated && parentEdgeKeys.has(key);
  });
}
