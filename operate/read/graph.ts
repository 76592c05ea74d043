import { z } from "zod";
import { readOperation } from "#operate/operation.ts";
import { readTaskNames } from "#operate/task-names.ts";
import { command, type Pipelines } from "#shared/contract/command.ts";
import {
  type EdgeId,
  type ExecutionId,
  parseEdgeId,
  parseExecutionId,
  parseFlowId,
} from "#shared/contract/ids.ts";
import type { FlowKeys } from "#shared/contract/keys.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText } from "#shared/contract/record.ts";
import { SUBMISSION_FIELDS } from "#shared/contract/submission.ts";
import { InvalidRequestError, ProtocolError } from "#shared/errors.ts";
import { readEach, valueOrThrow } from "#shared/valkey/batches.ts";

/** Executions of a page at most. */
const MAX_NODES = 1_000;
/** A page ends after the execution that reaches this number: about 1 MB of ids. */
const MAX_EDGES = 20_000;
const SCAN_COUNT = 1_000;
const CORE_FIELDS = ["public_state", "lane_id", "execution_kind"] as const;

const node = z.object({
  execution_id: z.string(),
  task: z.string().describe("The id of the task in the workflow. Empty if its submission recorded none"),
  kind: z.string(),
  lane: z.string(),
  state: z.string().describe("The execution's public_state. Empty: it has no record"),
  downstream: z
    .array(z.string())
    .describe("Executions that depend on it. Missing with `states_only`")
    .optional(),
});

/** One execution of a flow, with the edges that leave it. */
export type GraphNode = z.infer<typeof node>;

/** Reads the graph of a flow with the states of its executions, in pages in the order of their ids. */
export const graph = readOperation({
  name: "graph",
  input: z.strictObject({
    flow: z.string(),
    states_only: z
      .boolean()
      .default(false)
      .describe("Leave out the edges, which never change once the flow is submitted"),
    cursor: z.string().optional(),
  }),
  output: z.object({
    flow_id: z.string(),
    name: z.string().describe("The workflow's name. Empty if its submission recorded none"),
    revision: z.number().describe("Grows with every execution and edge that is added to the flow"),
    nodes: z.array(node),
    next: z
      .string()
      .optional()
      .describe("The cursor of the next page. Missing on the last page. The command joins all pages"),
  }),
  async run(context, { flow: flowText, states_only: statesOnly, cursor }) {
    const flowId = parseFlowId(flowText);
    if (!flowId.ok) throw new InvalidRequestError([flowId.error.message]);
    const after = cursorOf(cursor);
    const { valkey, router } = context;
    const flow = router.flowKeys(flowId.value);
    const [core] = await readEach(valkey, [flow], ({ partition, core: key }) =>
      command(partition, "hmget", key, "flow_id", SUBMISSION_FIELDS.name, "graph_revision"),
    );
    const [id, name, revision] = textsOf(core);
    if (id === "") {
      throw new InvalidRequestError([
        `the flow ${flowText} does not exist, or was deleted after its retention`,
      ]);
    }
    const members = (await membersOf(valkey, flow)).filter((member) => member > after);
    const page = members.slice(0, MAX_NODES);
    const edges = statesOnly ? undefined : await readDownstream(valkey, flow, page);
    const shown = page.slice(0, edges?.length ?? page.length);
    const last = shown.at(-1);
    return {
      flow_id: flowId.value,
      name: name ?? "",
      revision: Number(revision) || 0,
      nodes: await readNodes(context, shown, edges),
      ...(shown.length < members.length && last !== undefined ? { next: last } : {}),
    };
  },
});

function cursorOf(cursor: string | undefined): string {
  if (cursor === undefined) return "";
  const id = parseExecutionId(cursor);
  if (!id.ok) throw new InvalidRequestError(["the cursor is malformed: pass the `next` of the page before"]);
  return id.value;
}

/** The ids of all members, sorted: pages in this order show each member once. */
async function membersOf(valkey: Pipelines, { partition, members }: FlowKeys): Promise<ExecutionId[]> {
  const found = new Set<ExecutionId>();
  let cursor = "0";
  do {
    const [result] = await valkey.pipelined([
      command(partition, "sscan", members, cursor, "COUNT", SCAN_COUNT),
    ]);
    const reply = valueOrThrow(result);
    const [next, ids]: readonly unknown[] = Array.isArray(reply) ? reply : [];
    if (typeof next !== "string" || !Array.isArray(ids))
      throw new ProtocolError("the reply of SSCAN is malformed");
    for (const member of ids) {
      const id = parseExecutionId(member);
      if (id.ok) found.add(id.value);
    }
    cursor = next;
  } while (cursor !== "0");
  return [...found].sort();
}

/** The executions that depend on each member. Stops after the member that reaches the limit of edges. */
async function readDownstream(
  valkey: Pipelines,
  flow: FlowKeys,
  members: readonly ExecutionId[],
): Promise<string[][]> {
  const { partition } = flow;
  const counts = await readEach(valkey, members, (id) => command(partition, "scard", flow.outgoing(id)));
  let total = 0;
  const fitting = members.filter((_, at) => {
    const isFirst = at === 0;
    total += Number(counts[at]);
    return isFirst || total <= MAX_EDGES;
  });
  const ids = await readEach(valkey, fitting, (id) => command(partition, "smembers", flow.outgoing(id)));
  const edges = ids.map((value) =>
    textsOf(value).flatMap((text): EdgeId[] => {
      const edge = parseEdgeId(text);
      return edge.ok ? [edge.value] : [];
    }),
  );
  const ends = await readEach(valkey, edges.flat(), (edge) =>
    command(partition, "hget", flow.edge(edge), "downstream_execution_id"),
  );
  let position = 0;
  return edges.map((own) => {
    const start = position;
    position += own.length;
    return ends
      .slice(start, position)
      .map(fieldText)
      .filter((end) => end !== "");
  });
}

async function readNodes(
  context: { readonly valkey: Pipelines; readonly router: PartitionRouter },
  ids: readonly ExecutionId[],
  edges: readonly (readonly string[])[] | undefined,
): Promise<GraphNode[]> {
  const { valkey, router } = context;
  const records = await readEach(valkey, ids, (id) => {
    const { partition, core } = router.execKeys(id);
    return command(partition, "hmget", core, ...CORE_FIELDS);
  });
  const names = await readTaskNames(context, ids);
  return ids.map((execution, at) => {
    const [state = "", lane = "", kind = ""] = textsOf(records[at]);
    return {
      execution_id: execution,
      task: names[at] ?? "",
      kind,
      lane,
      state,
      ...(edges === undefined ? {} : { downstream: [...(edges[at] ?? [])] }),
    };
  });
}

function textsOf(reply: unknown): string[] {
  return Array.isArray(reply) ? reply.map(fieldText) : [];
}
