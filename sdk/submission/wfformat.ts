import * as z from "zod/mini";
import { type ErrorList, quoted } from "#sdk/submission/error-list.ts";
import { buildWorkflow, edgeKey, type UncheckedEdge } from "#sdk/submission/validate-graph.ts";
import { describeValue, validateSchema, wellFormed } from "#sdk/submission/validate-schema.ts";
import type { Workflow } from "#sdk/submission/workflow.ts";
import { parseLaneId, unwrap } from "#shared/contract/ids.ts";

const LANE = unwrap(parseLaneId("default"));
const NEWEST_MINOR = 6;
/** From this minor version on, tasks are under `workflow.specification`, and edges name ids. */
const SPECIFICATION_MINOR = 5;

// Writers of traces use null for values that they do not have.
const id = z.string().check(z.minLength(1), wellFormed);
const ids = z.nullish(z.array(id));
const seconds = z.nullish(z.number());

const specificationFile = z.looseObject({
  name: z.string(),
  workflow: z.looseObject({
    specification: z.looseObject({
      tasks: z
        .array(z.looseObject({ id, name: z.nullish(z.string()), parents: ids, children: ids }))
        .check(z.minLength(1)),
    }),
    execution: z.nullish(
      z.looseObject({ tasks: z.nullish(z.array(z.looseObject({ id, runtimeInSeconds: seconds }))) }),
    ),
  }),
});

const namedTasks = z
  .array(
    z.looseObject({ name: id, runtimeInSeconds: seconds, runtime: seconds, parents: ids, children: ids }),
  )
  .check(z.minLength(1));

/** A task of any version. */
interface RecordedTask {
  /** What `parents` and `children` of other tasks name. */
  readonly id: string;
  readonly name: string;
  readonly runtimeInSeconds: number | undefined;
  readonly parents: readonly string[] | undefined;
  readonly children: readonly string[] | undefined;
  /** The position in the file. */
  readonly path: string;
}

interface RecordedWorkflow {
  readonly name: string;
  readonly tasks: readonly RecordedTask[];
  readonly idProperty: "id" | "name";
}

/**
 * Reads WfFormat 1.0 to 1.6 (WfCommons). Only tasks, edges and run times are used; other properties are ignored. A
 * task's payload is the JSON of its `name` and, if the file has it, the `runtimeInSeconds` of the recorded run. A
 * negative run time means that none was recorded. Tasks get the lane `default`, priority 0, no retries and no data
 * passing.
 *
 * Up to 1.4, `parents` and `children` refer to a task's `name`, which becomes the task's id. From 1.5 on they refer to
 * its `id`. A newer version 1.x is read like 1.6, with a warning.
 *
 * The format states each edge twice, in the parent's `children` and in the child's `parents`. Either list can be
 * absent. If both are present, they must agree.
 */
export function readWfFormat(value: object, errors: ErrorList, warnings: ErrorList): Workflow | undefined {
  const minor = readMinorVersion(value, errors);
  if (minor === undefined) return undefined;
  const recorded =
    minor >= SPECIFICATION_MINOR ? readSpecification(value, errors) : readNamedTasks(value, errors);
  if (recorded === undefined) return undefined;
  if (minor > NEWEST_MINOR) {
    warnings.add("schemaVersion", `1.${minor} is newer than 1.${NEWEST_MINOR}: read as 1.${NEWEST_MINOR}`);
  }
  const tasks = recorded.tasks.map(({ id: taskId, name, runtimeInSeconds, path }) => ({
    task: {
      id: taskId,
      lane: LANE,
      priority: 0,
      // JSON.stringify omits an undefined run time.
      payload: JSON.stringify({ name, runtimeInSeconds }),
    },
    path,
  }));
  const edges = readEdges(recorded.tasks, errors);
  return buildWorkflow({ name: recorded.name, tasks, edges, idProperty: recorded.idProperty }, errors);
}

/** The minor version, or undefined if the file is not WfFormat 1.x. */
function readMinorVersion(value: object, errors: ErrorList): number | undefined {
  const version: unknown = "schemaVersion" in value ? value.schemaVersion : undefined;
  const minor = typeof version === "string" ? /^1\.(\d{1,3})(?:\.\d+)?$/.exec(version)?.[1] : undefined;
  if (minor !== undefined) return Number(minor);
  const expected = `a string from "1.0" to "1.${NEWEST_MINOR}"`;
  errors.add(
    "schemaVersion",
    version === undefined
      ? `is missing, expected ${expected}`
      : `must be ${expected}, not ${describeValue(version)}`,
  );
  return undefined;
}

function readSpecification(value: object, errors: ErrorList): RecordedWorkflow | undefined {
  const parsed = validateSchema(specificationFile, value, errors);
  if (parsed === undefined) return undefined;
  const { specification, execution } = parsed.workflow;
  const runtimes = readRuntimes(execution?.tasks ?? [], errors);
  const tasks = specification.tasks.map((task, number) => ({
    id: task.id,
    name: task.name ?? task.id,
    runtimeInSeconds: runtimes.get(task.id),
    parents: task.parents ?? undefined,
    children: task.children ?? undefined,
    path: `workflow.specification.tasks[${number}]`,
  }));
  return { name: parsed.name, tasks, idProperty: "id" };
}

/** Run times by task id. A duplicate id is an error: its run time would be ambiguous. */
function readRuntimes(
  tasks: readonly { readonly id: string; readonly runtimeInSeconds?: number | null | undefined }[],
  errors: ErrorList,
): ReadonlyMap<string, number | undefined> {
  const runtimes = new Map<string, number | undefined>();
  for (const [number, task] of tasks.entries()) {
    if (runtimes.has(task.id)) {
      const path = `workflow.execution.tasks[${number}].id`;
      errors.add(path, `the id ${quoted(task.id)} occurs more than once: remove the repeated entry`);
    }
    runtimes.set(task.id, recordedSeconds(task.runtimeInSeconds));
  }
  return runtimes;
}

/** Versions up to 1.4. The oldest ones call tasks `jobs`, and the run time `runtime`. */
function readNamedTasks(value: object, errors: ErrorList): RecordedWorkflow | undefined {
  const property = hasJobs(value) ? "jobs" : "tasks";
  const file = z.looseObject({ name: z.string(), workflow: z.looseObject({ [property]: namedTasks }) });
  const parsed = validateSchema(file, value, errors);
  if (parsed === undefined) return undefined;
  const tasks = (parsed.workflow[property] ?? []).map((task, number) => ({
    id: task.name,
    name: task.name,
    runtimeInSeconds: recordedSeconds(task.runtimeInSeconds ?? task.runtime),
    parents: task.parents ?? undefined,
    children: task.children ?? undefined,
    path: `workflow.${property}[${number}]`,
  }));
  return { name: parsed.name, tasks, idProperty: "name" };
}

function hasJobs(value: object): boolean {
  const workflow: unknown = "workflow" in value ? value.workflow : undefined;
  return typeof workflow === "object" && workflow !== null && "jobs" in workflow && !("tasks" in workflow);
}

function recordedSeconds(runtime: number | null | undefined): number | undefined {
  return typeof runtime === "number" && runtime >= 0 ? runtime : undefined;
}

/** Every edge once: first those of the `parents` lists, then those that only a `children` list states. */
function readEdges(tasks: readonly RecordedTask[], errors: ErrorList): UncheckedEdge[] {
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

function edgesInLists(tasks: readonly RecordedTask[], list: "parents" | "children"): UncheckedEdge[] {
  return tasks.flatMap((task) =>
    (task[list] ?? []).map((other, position) => ({
      edge:
        list === "parents"
          ? { from: other, to: task.id, dataPassing: false }
          : { from: task.id, to: other, dataPassing: false },
      path: `${task.path}.${list}[${position}]`,
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
