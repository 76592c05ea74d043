import type { Plan, PlannedTask } from "#sdk/submission/plan.ts";
import { command, type Pipelines, type ValkeyResult } from "#shared/contract/command.ts";
import { fieldText } from "#shared/contract/record.ts";
import { addExecutionToFlow, type Edge, stageDependencyEdge } from "#shared/contract/submission.ts";
import { InvalidRecordError, SubmissionError } from "#shared/errors.ts";
import {
  chunked,
  doneOrThrow,
  readEach,
  refusalError,
  replyOrThrow,
  sendChunks,
  valueOrThrow,
} from "#shared/valkey/batches.ts";

const STALE_REVISION = "stale_graph_revision";
const ALREADY_STAGED = "dependency_already_exists";
/** Rounds in which no edge appears, from this submitter or another, before the submission gives up. */
const MAX_IDLE_ROUNDS = 50;

/** Makes executions members of the flow. Existing members do not change. */
export async function addMembers(
  valkey: Pipelines,
  plan: Plan,
  tasks: readonly PlannedTask[],
  onAdded: (count: number) => void,
): Promise<void> {
  const { flow, index } = plan;
  const nowMs = Date.now();
  await sendChunks(chunked(tasks), async (chunk) => {
    const results = await valkey.pipelined(
      chunk.map(({ keys }) => addExecutionToFlow(flow, index, keys, nowMs)),
    );
    for (const position of chunk.keys())
      doneOrThrow("ff_add_execution_to_flow", valueOrThrow(results[position]));
    onAdded(chunk.length);
  });
}

/**
 * Stages the missing edges of the plan, in topological order of their upstreams. When an edge is staged, its downstream
 * has no staged outgoing edges yet, so the library's search for cycles ends at once. FlowFabric's search also gives up
 * after 1,000 nodes and then reports a cycle that does not exist: in another order, it refuses large graphs.
 *
 * Each staged edge raises the graph revision by one, so the expected revision of every call is known in advance. It also
 * keeps the order when two submissions run at the same time: at one revision, both stage the same edge, the first that
 * is missing.
 */
export async function stageEdges(
  valkey: Pipelines,
  plan: Plan,
  onStaged: (count: number) => void,
): Promise<void> {
  let missing: readonly Edge[] = plan.tasks.flatMap(({ outgoing }) => outgoing.map(({ edge }) => edge));
  for (let idle = 0; missing.length > 0; ) {
    const graph = await readGraph(valkey, plan, missing);
    onStaged(missing.length - graph.missing.length);
    idle = graph.missing.length < missing.length ? 0 : idle + 1;
    if (idle > MAX_IDLE_ROUNDS) {
      throw new SubmissionError(`another client keeps changing the graph of flow ${plan.flow.id}`, {
        retryable: true,
      });
    }
    missing = graph.missing;
    if (graph.revision === undefined) continue;
    if (await stageRound(valkey, plan, missing, graph.revision)) {
      onStaged(missing.length);
      return;
    }
  }
}

/** Tries each edge once. Returns whether all are staged now: stale calls are refused. */
async function stageRound(
  valkey: Pipelines,
  plan: Plan,
  edges: readonly Edge[],
  revision: number,
): Promise<boolean> {
  const { flow } = plan;
  const nowMs = Date.now();
  let next = revision;
  const staged = await sendChunks(chunked(edges), async (chunk) => {
    const results = await valkey.pipelined(
      chunk.map((edge) => stageDependencyEdge(flow, edge, next++, nowMs)),
    );
    return chunk.map((_, position) => isStaged(results[position]));
  });
  return staged.flat().every(Boolean);
}

function isStaged(result: ValkeyResult | undefined): boolean {
  const reply = replyOrThrow(valueOrThrow(result));
  if (reply.kind === "done" || reply.code === ALREADY_STAGED) return true;
  if (reply.code === STALE_REVISION) return false;
  throw refusalError("ff_stage_dependency_edge", reply);
}

/**
 * Returns which edges are not staged, and the graph revision at which exactly these are missing. The revision is
 * undefined if the graph changed during the read.
 */
async function readGraph(
  valkey: Pipelines,
  plan: Plan,
  edges: readonly Edge[],
): Promise<{ readonly missing: readonly Edge[]; readonly revision: number | undefined }> {
  const { flow } = plan;
  const { revision, edgeCount } = await readRevision(valkey, plan);
  if (edgeCount === "0") return { missing: edges, revision };
  const staged = await readEach(valkey, edges, ({ id }) => command(flow.partition, "exists", flow.edge(id)));
  const missing = edges.filter((_, position) => staged[position] !== 1);
  const isSettled = missing.length === 0 || (await readRevision(valkey, plan)).revision === revision;
  return { missing, revision: isSettled ? revision : undefined };
}

async function readRevision(
  valkey: Pipelines,
  { flow }: Plan,
): Promise<{ readonly revision: number; readonly edgeCount: string }> {
  const [result] = await valkey.pipelined([
    command(flow.partition, "hmget", flow.core, "graph_revision", "edge_count"),
  ]);
  const fields: unknown = valueOrThrow(result);
  const [text = "", edgeCount = ""] = Array.isArray(fields) ? fields.map(fieldText) : [];
  const revision = Number(text);
  if (text !== "" && Number.isSafeInteger(revision)) return { revision, edgeCount };
  throw new InvalidRecordError(`flow ${flow.id} has an invalid graph revision: ${JSON.stringify(text)}`);
}
