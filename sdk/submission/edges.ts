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

const STALE = "stale_graph_revision";
const EXISTS_ALREADY = "dependency_already_exists";
/** Rounds without a single edge more, ours or another submitter's, before giving up. */
const MAX_IDLE_ROUNDS = 50;

/** Makes executions members of the flow; those that are members already stay as they are. */
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
 * Stages edges, pipelined: each edge staged adds one to the graph's revision, so that the revision which
 * the next call must name is known before the reply. Where somebody else changes the graph meanwhile, the
 * rest of the calls is refused as stale, and a further round stages what is then still missing.
 *
 * Give the edges in the order of their upstreams in the graph: the search for a cycle then ends at once.
 */
export async function stageEdges(
  valkey: Pipelines,
  plan: Plan,
  edges: readonly Edge[],
  options: { readonly someMayExist: boolean; readonly onStaged: (count: number) => void },
): Promise<void> {
  let missing = options.someMayExist ? await withoutStaged(valkey, plan, edges) : edges;
  options.onStaged(edges.length - missing.length);
  for (let idle = 0; missing.length > 0; ) {
    if (await stageRound(valkey, plan, missing)) {
      options.onStaged(missing.length);
      return;
    }
    const left = await withoutStaged(valkey, plan, missing);
    idle = left.length < missing.length ? 0 : idle + 1;
    if (idle === MAX_IDLE_ROUNDS) {
      throw new SubmissionError(`the graph of flow ${plan.flow.id} is being changed by somebody else`, {
        retryable: true,
      });
    }
    options.onStaged(missing.length - left.length);
    missing = left;
  }
}

/** Tries every edge once; false when some were refused as stale. */
async function stageRound(valkey: Pipelines, plan: Plan, edges: readonly Edge[]): Promise<boolean> {
  const { flow } = plan;
  const nowMs = Date.now();
  let revision = await readRevision(valkey, plan);
  let complete = true;
  await sendChunks(chunked(edges), async (chunk) => {
    const results = await valkey.pipelined(
      chunk.map((edge) => stageDependencyEdge(flow, edge, revision++, nowMs)),
    );
    for (const position of chunk.keys()) if (!isThere(results[position])) complete = false;
  });
  return complete;
}

function isThere(result: ValkeyResult | undefined): boolean {
  const reply = replyOrThrow(valueOrThrow(result));
  if (reply.kind === "done" || reply.code === EXISTS_ALREADY) return true;
  if (reply.code === STALE) return false;
  throw refusalError("ff_stage_dependency_edge", reply);
}

async function withoutStaged(valkey: Pipelines, plan: Plan, edges: readonly Edge[]): Promise<Edge[]> {
  const { flow } = plan;
  const staged = await readEach(valkey, edges, ({ id }) => command(flow.partition, "exists", flow.edge(id)));
  return edges.filter((_, position) => staged[position] !== 1);
}

async function readRevision(valkey: Pipelines, { flow }: Plan): Promise<number> {
  const [result] = await valkey.pipelined([command(flow.partition, "hget", flow.core, "graph_revision")]);
  const text = fieldText(valueOrThrow(result));
  const revision = Number(text);
  if (text !== "" && Number.isSafeInteger(revision)) return revision;
  throw new InvalidRecordError(`the flow ${flow.id} has the graph revision ${JSON.stringify(text)}`);
}
