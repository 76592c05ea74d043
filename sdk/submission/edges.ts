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
 * Stages edges in pipelines. Each staged edge raises the graph revision by one, so the revision for the next call is
 * known before the reply arrives. If another submitter changes the graph meanwhile, the library refuses the remaining
 * calls as stale, and another round stages the missing edges.
 *
 * Pass the edges in topological order of their upstreams: the library's search for cycles then ends at once.
 */
export async function stageEdges(
  valkey: Pipelines,
  plan: Plan,
  edges: readonly Edge[],
  options: { readonly someMayExist: boolean; readonly onStaged: (count: number) => void },
): Promise<void> {
  let missing = options.someMayExist ? await missingEdges(valkey, plan, edges) : edges;
  options.onStaged(edges.length - missing.length);
  for (let idle = 0; missing.length > 0; ) {
    if (await stageRound(valkey, plan, missing)) {
      options.onStaged(missing.length);
      return;
    }
    const stillMissing = await missingEdges(valkey, plan, missing);
    idle = stillMissing.length < missing.length ? 0 : idle + 1;
    if (idle === MAX_IDLE_ROUNDS) {
      throw new SubmissionError(`another client keeps changing the graph of flow ${plan.flow.id}`, {
        retryable: true,
      });
    }
    options.onStaged(missing.length - stillMissing.length);
    missing = stillMissing;
  }
}

/** Tries each edge once. Returns whether all are staged now: stale calls are refused. */
async function stageRound(valkey: Pipelines, plan: Plan, edges: readonly Edge[]): Promise<boolean> {
  const { flow } = plan;
  const nowMs = Date.now();
  let revision = await readRevision(valkey, plan);
  const staged = await sendChunks(chunked(edges), async (chunk) => {
    const results = await valkey.pipelined(
      chunk.map((edge) => stageDependencyEdge(flow, edge, revision++, nowMs)),
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

async function missingEdges(valkey: Pipelines, plan: Plan, edges: readonly Edge[]): Promise<Edge[]> {
  const { flow } = plan;
  const staged = await readEach(valkey, edges, ({ id }) => command(flow.partition, "exists", flow.edge(id)));
  return edges.filter((_, position) => staged[position] !== 1);
}

async function readRevision(valkey: Pipelines, { flow }: Plan): Promise<number> {
  const [result] = await valkey.pipelined([command(flow.partition, "hget", flow.core, "graph_revision")]);
  const text = fieldText(valueOrThrow(result));
  const revision = Number(text);
  if (text !== "" && Number.isSafeInteger(revision)) return revision;
  throw new InvalidRecordError(`flow ${flow.id} has an invalid graph revision: ${JSON.stringify(text)}`);
}
