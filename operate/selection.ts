/**
 * Selects the executions that a write operation acts on: one execution, the members of a flow, or all that match a filter. A
 * filter also narrows a flow.
 *
 * A filter without a flow reads the records of all executions, one partition after the other. A page has at most `MAX_CHANGES`
 * executions, in the order of partitions and ids. Its cursor names the last one, so a page shows each execution once, even if
 * the page before has changed its state.
 */

import { z } from "zod";
import { MAX_CHANGES } from "#operate/change-report.ts";
import { type ExecutionRecord, readExecutions, reasonOf } from "#operate/execution.ts";
import type { OperateContext } from "#operate/operation.ts";
import { executionIdOf } from "#sdk/submission/plan.ts";
import { command, type ValkeyCommand } from "#shared/contract/command.ts";
import {
  type ExecutionId,
  type FlowId,
  type LaneId,
  type Partition,
  parseExecutionId,
  parseFlowId,
  parseLaneId,
  unwrap,
} from "#shared/contract/ids.ts";
import { fieldText } from "#shared/contract/record.ts";
import { SUBMISSION_FIELDS } from "#shared/contract/submission.ts";
import { InvalidRequestError, ProtocolError } from "#shared/errors.ts";
import { chunked, readEach, valueOrThrow } from "#shared/valkey/batches.ts";

/** The values of `public_state` (contract, section 4). */
export const STATES = [
  "waiting",
  "delayed",
  "rate_limited",
  "waiting_children",
  "active",
  "suspended",
  "completed",
  "failed",
  "cancelled",
  "expired",
  "skipped",
] as const;
export type State = (typeof STATES)[number];
const ENDED: ReadonlySet<State> = new Set(["completed", "failed", "cancelled", "expired", "skipped"]);
export const ENDED_STATES: readonly State[] = STATES.filter((state) => ENDED.has(state));
export const OPEN_STATES: readonly State[] = STATES.filter((state) => !ENDED.has(state));

/** The part of an operation's input that selects executions. */
export const selectionShape = {
  execution: z.string().optional().describe("The id of one execution."),
  flow: z.string().optional().describe("The id of a flow: its members."),
  states: z.array(z.enum(STATES)).optional().describe("Executions in one of these states."),
  lane: z.string().optional().describe("Executions of this lane."),
  task: z.string().optional().describe("Executions of this kind, or of the task with this id."),
  workflow: z.string().optional().describe("Members of flows whose workflow has this name."),
  since_at: z
    .number()
    .int()
    .optional()
    .describe("Executions that entered their state at this time or later."),
  before_at: z.number().int().optional().describe("Executions that entered their state before this time."),
  reason_contains: z
    .string()
    .optional()
    .describe("Executions whose failure, cancellation or skip has this text in its reason."),
};
export type SelectionInput = z.infer<z.ZodObject<typeof selectionShape>>;

interface Filter {
  readonly states: ReadonlySet<string>;
  readonly lane: LaneId | undefined;
  readonly task: string | undefined;
  readonly workflow: string | undefined;
  readonly sinceAt: number;
  readonly beforeAt: number;
  readonly reasonContains: string;
}

export type Selection =
  | { readonly kind: "execution"; readonly id: ExecutionId }
  | { readonly kind: "flow"; readonly flowId: FlowId; readonly filter: Filter }
  | { readonly kind: "filter"; readonly filter: Filter };

type Several = Exclude<Selection, { kind: "execution" }>;

/** Executions of one page. */
export interface SelectedPage {
  readonly executions: readonly ExecutionRecord[];
  /** The execution or flow that was named and does not exist. */
  readonly missing: string | undefined;
  readonly next: string | undefined;
}

/** No further partition is read if less time is left: what was selected must still be changed. */
const RESERVED_MS = 5_000;
const SCAN_COUNT = 2_000;

const FILTERS = [
  "states",
  "lane",
  "task",
  "workflow",
  "since_at",
  "before_at",
  "reason_contains",
] as const satisfies (keyof SelectionInput)[];

/** Adds an issue for each error of a selection: a malformed id, or nothing that limits it. For `superRefine`. */
export function checkSelection(
  input: SelectionInput,
  context: { addIssue(issue: { readonly code: "custom"; readonly message: string }): void },
): void {
  for (const message of selectionErrors(input)) context.addIssue({ code: "custom", message });
}

function selectionErrors(input: SelectionInput): string[] {
  const { execution, flow, lane } = input;
  const narrowing = FILTERS.filter((name) => isGiven(input[name]));
  if (execution !== undefined && (flow !== undefined || narrowing.length > 0)) {
    return ["select either one execution or, with a flow or a filter, several"];
  }
  if (execution === undefined && flow === undefined && narrowing.length === 0) {
    return [
      "nothing limits the selection: name an execution, a flow (--flow), or a filter (--state, --lane, --task, " +
        "--workflow, --since, --older-than, --reason-contains)",
    ];
  }
  // A script whose variable is not set would change more than it means to.
  const empty = FILTERS.filter((name) => input[name] !== undefined && !isGiven(input[name]));
  if (empty.length > 0) {
    return empty.map((name) => `the filter ${name} is empty: give it a value, or omit it`);
  }
  const ids = [
    ...(execution === undefined ? [] : [parseExecutionId(execution)]),
    ...(flow === undefined ? [] : [parseFlowId(flow)]),
    ...(isGiven(lane) ? [parseLaneId(lane)] : []),
  ];
  return ids.flatMap((id) => (id.ok ? [] : [id.error.message]));
}

/** Whether the input selects a flow as a whole, and not only some of its members. */
export function isWholeFlow(input: SelectionInput): boolean {
  return input.flow !== undefined && !FILTERS.some((name) => isGiven(input[name]));
}

/** The selection of a checked input. `defaultStates` are those of a flow or filter that names no states. */
export function selectionOf(input: SelectionInput, defaultStates: readonly State[]): Selection {
  const { execution, flow } = input;
  if (execution !== undefined) return { kind: "execution", id: unwrap(parseExecutionId(execution)) };
  const filter: Filter = {
    states: new Set(isGiven(input.states) ? input.states : defaultStates),
    lane: isGiven(input.lane) ? unwrap(parseLaneId(input.lane)) : undefined,
    task: isGiven(input.task) ? input.task : undefined,
    workflow: isGiven(input.workflow) ? input.workflow : undefined,
    sinceAt: input.since_at ?? Number.NEGATIVE_INFINITY,
    beforeAt: input.before_at ?? Number.POSITIVE_INFINITY,
    reasonContains: input.reason_contains ?? "",
  };
  return flow === undefined
    ? { kind: "filter", filter }
    : { kind: "flow", flowId: unwrap(parseFlowId(flow)), filter };
}

/** The selection as text, for the audit trail. */
export function describeSelection(input: SelectionInput): string {
  const { execution, flow } = input;
  if (execution !== undefined) return `execution ${execution}`;
  const narrowing = FILTERS.flatMap((name) => {
    const value = input[name];
    return isGiven(value) ? [`${name}=${Array.isArray(value) ? value.join(",") : String(value)}`] : [];
  });
  return [...(flow === undefined ? [] : [`flow ${flow}`]), ...narrowing].join(" ");
}

function isGiven<T>(value: T | undefined): value is T {
  return value !== undefined && value !== "" && !(Array.isArray(value) && value.length === 0);
}

/** Selects the next page. Throws an InvalidRequestError if the cursor is malformed, and a ValkeyError. */
export async function selectPage(
  context: OperateContext,
  selection: Selection,
  cursor: string | undefined,
): Promise<SelectedPage> {
  if (selection.kind === "execution") {
    const executions = (await readExecutions(context, [selection.id])).filter((one) => one !== undefined);
    const missing = executions.length === 0 ? selection.id : undefined;
    return { executions, missing, next: undefined };
  }
  const from = parsePosition(cursor);
  const executions: ExecutionRecord[] = [];
  let hasRead = false;
  const partitions = await partitionsOf(context, selection);
  if (partitions.length === 0 && selection.kind === "flow") {
    return { executions, missing: selection.flowId, next: undefined };
  }
  for (const partition of partitions.filter((one) => one >= from.partition)) {
    let after = partition === from.partition ? from.after : "";
    const ids = (await idsIn(context, selection, partition)).filter((id) => id > after);
    for (const chunk of chunked(ids, () => 1, MAX_CHANGES)) {
      if (hasRead && isLate(context)) {
        return { executions, missing: undefined, next: formatPosition(partition, after) };
      }
      hasRead = true;
      const records = (await readExecutions(context, chunk)).filter((record) => record !== undefined);
      for (const execution of await matching(context, selection.filter, records)) {
        if (executions.length === MAX_CHANGES) {
          return { executions, missing: undefined, next: formatPosition(partition, after) };
        }
        executions.push(execution);
        after = execution.keys.id;
      }
      after = chunk.at(-1) ?? after;
    }
  }
  return { executions, missing: undefined, next: undefined };
}

/** All executions of one partition that are selected, in the order of their ids. */
export async function selectedIn(
  context: OperateContext,
  selection: Several,
  partition: Partition,
): Promise<ExecutionRecord[]> {
  return matching(context, selection.filter, await recordsIn(context, selection, partition));
}

/** All executions of one partition among which the selection chooses, in the order of their ids. */
export async function recordsIn(
  context: OperateContext,
  selection: Several,
  partition: Partition,
): Promise<ExecutionRecord[]> {
  const records = await readExecutions(context, await idsIn(context, selection, partition));
  return records.filter((record) => record !== undefined);
}

/** The partitions that may hold selected executions, in order. Empty if the flow does not exist. */
export async function partitionsOf(
  { valkey, router }: OperateContext,
  selection: Several,
): Promise<Partition[]> {
  const partitions = selection.kind === "flow" ? [router.flowPartition(selection.flowId)] : router.partitions;
  const counts = await readEach(valkey, partitions, (partition) =>
    selection.kind === "flow"
      ? command(partition, "exists", router.flowKeys(selection.flowId).core)
      : command(partition, "scard", router.indexKeys(partition).allExecutions),
  );
  return partitions.filter((_, at) => counts[at] !== 0);
}

/** The ids among which the selection chooses, in order. */
async function idsIn(
  { valkey, router }: OperateContext,
  selection: Several,
  partition: Partition,
): Promise<ExecutionId[]> {
  const key =
    selection.kind === "flow"
      ? router.flowKeys(selection.flowId).members
      : router.indexKeys(partition).allExecutions;
  const found = new Set<ExecutionId>();
  let cursor = "0";
  do {
    const scan: ValkeyCommand = command(partition, "sscan", key, cursor, "COUNT", SCAN_COUNT);
    const reply = valueOrThrow((await valkey.pipelined([scan]))[0]);
    const [next, members] = Array.isArray(reply) ? (reply as readonly unknown[]) : [];
    if (typeof next !== "string" || !Array.isArray(members)) {
      throw new ProtocolError("SSCAN did not reply with a cursor and an array");
    }
    for (const member of members) {
      const id = parseExecutionId(member);
      if (id.ok) found.add(id.value);
    }
    cursor = next;
  } while (cursor !== "0");
  return [...found].sort();
}

async function matching(
  context: OperateContext,
  filter: Filter,
  records: readonly ExecutionRecord[],
): Promise<ExecutionRecord[]> {
  const found = records.filter((record) => matches(filter, record));
  if (filter.workflow === undefined) return found;
  const names = await workflowNames(context, found);
  return found.filter(({ flowId }) => flowId !== undefined && names.get(flowId) === filter.workflow);
}

function matches(filter: Filter, execution: ExecutionRecord): boolean {
  const { keys, fields, flowId, lane, changedAtMs = 0 } = execution;
  if (!filter.states.has(fields.public_state)) return false;
  if (filter.lane !== undefined && lane !== filter.lane) return false;
  if (changedAtMs < filter.sinceAt || changedAtMs >= filter.beforeAt) return false;
  if (!reasonOf(execution).includes(filter.reasonContains)) return false;
  if (filter.task === undefined || fields.execution_kind === filter.task) return true;
  return (
    flowId !== undefined && executionIdOf({ partition: keys.partition, id: flowId }, filter.task) === keys.id
  );
}

/** The names of the workflows that Sluice's submissions recorded, by flow. */
async function workflowNames(
  { valkey, router }: OperateContext,
  executions: readonly ExecutionRecord[],
): Promise<Map<FlowId, string>> {
  const flows = new Map(
    executions.flatMap(({ keys, flowId }) =>
      flowId === undefined ? [] : [[flowId, router.flowKeys(flowId, keys.partition)] as const],
    ),
  );
  const names = await readEach(valkey, [...flows.values()], ({ partition, core }) =>
    command(partition, "hget", core, SUBMISSION_FIELDS.name),
  );
  return new Map([...flows.keys()].map((flowId, at) => [flowId, fieldText(names[at])]));
}

export function isLate({ deadlineMs }: OperateContext): boolean {
  return Date.now() >= deadlineMs - RESERVED_MS;
}

/** Where a page starts: behind an execution of a partition. */
interface Position {
  readonly partition: number;
  /** An execution id; empty before the first. */
  readonly after: string;
}

const CURSOR = /^(\d{1,5})\.(.{0,60})$/;

export function formatPosition(partition: Partition, after: string): string {
  return Buffer.from(`${partition}.${after}`).toString("base64url");
}

export function parsePosition(cursor: string | undefined): Position {
  if (cursor === undefined) return { partition: 0, after: "" };
  const [, partition, after] = CURSOR.exec(Buffer.from(cursor, "base64url").toString()) ?? [];
  if (partition === undefined || after === undefined) {
    throw new InvalidRequestError(["cursor: is not a cursor of this command: use `next` of its last answer"]);
  }
  return { partition: Number(partition), after };
}
