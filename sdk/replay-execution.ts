import { command, type Pipelines, type ValkeyCommand } from "#shared/contract/command.ts";
import { replayExecution as replayCall } from "#shared/contract/graph.ts";
import {
  type EdgeId,
  type ExecutionId,
  type FlowId,
  parseEdgeId,
  parseLaneId,
  parseStoredFlowId,
  unwrap,
} from "#shared/contract/ids.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText } from "#shared/contract/record.ts";
import { InvalidRecordError, RefusedError } from "#shared/errors.ts";
import { announceUnmarked } from "#shared/ready/announce.ts";
import type { ReadyPublisher } from "#shared/ready/publisher.ts";
import { doneOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";

/** What a replay needs. A `Connection` has all of it. */
export interface ReplayPorts {
  readonly valkey: Pipelines;
  readonly router: PartitionRouter;
  /** Announces the execution to the workers of its lane. Undefined: no lane has a ready queue, and workers poll. */
  readonly ready?: ReadyPublisher | undefined;
}

/** Options of `replayExecution`. */
export interface ReplayOptions {
  /**
   * `replay_count` of the execution's record, as it was read before. One that another caller has replayed, and that has ended
   * again, is then refused (`execution_not_terminal`). By default, any end is replayed.
   */
  readonly replayCount?: string;
}

/** The result of `replayExecution`. */
export interface Replay {
  /** `repeated`: an earlier call has replayed it, and it has not run since. */
  readonly status: "replayed" | "repeated";
  /** How many dependencies it waits for. 0: a worker can run it. */
  readonly unsatisfied: number;
}

interface StoredExecution {
  readonly phase: string;
  readonly attemptState: string;
  readonly outcome: string;
  readonly lane: string;
  readonly flowId: FlowId | undefined;
  readonly replayCount: string;
}

const FUNCTION = "ff_replay_execution";
const FIELDS = [
  "lifecycle_phase",
  "attempt_state",
  "terminal_outcome",
  "lane_id",
  "flow_id",
  "replay_count",
] as const;

/**
 * Gives an execution that has ended another run, for example after its cause of failure was removed. It keeps its id, payload
 * and dependencies; `idempotencyKey` changes.
 *
 * A skipped member of a flow waits again for the dependencies that had become impossible. Any other execution can run at once,
 * and is announced if its lane has a ready queue. To repeat a failed branch, replay its skipped descendants first, the last
 * ones before their upstreams, and the failed execution last: then they wait when it succeeds. If it ends before a descendant is
 * replayed, the descendant runs only after the reconciler has found it.
 *
 * It is safe to call again after an error: an execution that was replayed and has not run since is only announced.
 *
 * @throws RefusedError `execution_not_found`; `execution_not_terminal` if it has not ended; `max_replays_exhausted` (10
 * unless the policy says otherwise); `flow_purged`; `invalid_input` if its quorum cannot be reached any more.
 * @throws PublishError if the execution was replayed and its announcement not accepted. Call again, or leave it to the
 * reconciler.
 * @throws ValkeyError if Valkey does not answer.
 *
 * @example
 * using sluice = await connect();
 * for (const skipped of [publish, render]) await replayExecution(sluice, skipped); // "render" is upstream of "publish"
 * await replayExecution(sluice, fetch); // which had failed
 */
export async function replayExecution(
  ports: ReplayPorts,
  executionId: ExecutionId,
  { replayCount }: ReplayOptions = {},
): Promise<Replay> {
  const { valkey, router } = ports;
  const keys = router.execKeys(executionId);
  const execution = parseStored(
    executionId,
    valueOrThrow((await valkey.pipelined([command(keys.partition, "hmget", keys.core, ...FIELDS)]))[0]),
  );
  const { flowId } = execution;
  if (execution.phase !== "terminal") {
    if (execution.phase !== "runnable" || execution.attemptState !== "pending_replay_attempt") {
      throw new RefusedError(FUNCTION, "execution_not_terminal", []);
    }
    await announceReplayed(ports, executionId, flowId);
    const read = command(keys.partition, "scard", keys.depsUnresolved);
    return { status: "repeated", unsatisfied: Number(valueOrThrow((await valkey.pipelined([read]))[0])) };
  }
  if (replayCount !== undefined && execution.replayCount !== replayCount) {
    throw new RefusedError(FUNCTION, "execution_not_terminal", [execution.replayCount]);
  }
  const call = await replayCallOf(ports, executionId, execution);
  const { fields } = doneOrThrow(FUNCTION, valueOrThrow((await valkey.pipelined([call]))[0]));
  await announceReplayed(ports, executionId, flowId);
  return { status: "replayed", unsatisfied: Number(fields[0]) };
}

async function replayCallOf(
  { valkey, router }: ReplayPorts,
  executionId: ExecutionId,
  { outcome, lane, flowId, replayCount }: StoredExecution,
): Promise<ValkeyCommand> {
  const keys = router.execKeys(executionId);
  let edges: EdgeId[] = [];
  if (outcome === "skipped" && flowId !== undefined) {
    const incoming = router.flowKeys(flowId, keys.partition).incoming(executionId);
    const [read] = await valkey.pipelined([command(keys.partition, "smembers", incoming)]);
    const members = valueOrThrow(read);
    edges = (Array.isArray(members) ? members : []).map((edge) => unwrap(parseEdgeId(fieldText(edge))));
  }
  const index = router.indexKeys(keys.partition);
  return replayCall(keys, index, unwrap(parseLaneId(lane)), edges, Date.now(), replayCount);
}

async function announceReplayed(
  { valkey, router, ready }: ReplayPorts,
  executionId: ExecutionId,
  flowId: FlowId | undefined,
): Promise<void> {
  if (ready === undefined) return;
  const { results } = await announceUnmarked({ valkey, router, ready }, [{ executionId, flowId }]);
  for (const result of results) if (result.kind === "failed") throw result.error;
}

function parseStored(executionId: ExecutionId, record: unknown): StoredExecution {
  const [phase = "", attemptState = "", outcome = "", lane = "", flow = "", replayCount = ""] = (
    Array.isArray(record) ? record : []
  ).map(fieldText);
  if (phase === "") throw new RefusedError(FUNCTION, "execution_not_found", []);
  const flowId = flow === "" ? undefined : parseStoredFlowId(flow);
  if (flowId?.ok === false) throw new InvalidRecordError(`${executionId}: ${flowId.error.message}`);
  return { phase, attemptState, outcome, lane, flowId: flowId?.value, replayCount };
}
