/** Runs one execution that this worker holds, with everything that the task may use. */

import { v5 as uuidV5 } from "uuid";
import type { ClaimedTask, WorkerPorts } from "#sdk/kit/ports.ts";
import { runTask, type TaskOutcome } from "#sdk/kit/run-task.ts";
import { command } from "#shared/contract/command.ts";
import { type FlowId, mintExecutionId, unwrap } from "#shared/contract/ids.ts";
import { fieldText } from "#shared/contract/record.ts";
import { updateProgress } from "#shared/contract/upkeep.ts";
import { messageOf } from "#shared/errors.ts";
import type { Log, LogFields } from "#shared/runtime/telemetry.ts";
import { doneOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";

export interface Run {
  readonly outcome: TaskOutcome;
  readonly runMs: number;
}

/** Runs the task. Never rejects. `signal` aborts when the lease is lost or the worker must stop. */
export async function runClaimed(
  ports: WorkerPorts,
  claimed: ClaimedTask,
  signal: AbortSignal,
): Promise<Run> {
  const { target, lease, task, flowId, replayCount } = claimed;
  const { id } = target.keys;
  const begun = performance.now();
  const outcome = await runTask(
    task,
    claimed.payload,
    {
      signal,
      attempt: lease.attemptIndex + 1,
      idempotencyKey: `${id}:${replayCount}`,
      progress: async (percent, message = "") => {
        const call = updateProgress(target, lease, percent, message);
        const [result] = await ports.valkey.pipelined([call]);
        doneOrThrow(String(call.args[0]), valueOrThrow(result));
      },
      upstream: (taskId) => readUpstream(ports, claimed, taskId),
      logger: logOf(ports.log, {
        execution_id: id,
        flow_id: flowId ?? "",
        kind: task.kind,
        lane: task.lane,
        attempt: lease.attemptIndex + 1,
      }),
      executionId: id,
      flowId: flowId ?? "",
      traceparent: claimed.traceparent,
    },
    ports.middleware,
  );
  return { outcome, runMs: performance.now() - begun };
}

/** Submission derives the id of an execution from the flow id and the id of its task. */
async function readUpstream(
  { valkey, router }: WorkerPorts,
  { flowId, target }: ClaimedTask,
  taskId: string,
): Promise<unknown> {
  if (flowId === undefined) throw new Error("an execution without a flow has no upstream");
  const { partition } = target.keys;
  const keys = router.execKeys(taskExecutionId(partition, flowId, taskId));
  const [result, exists] = await valkey.pipelined([
    command(partition, "get", keys.result),
    command(partition, "exists", keys.core),
  ]);
  const text = fieldText(valueOrThrow(result));
  if (valueOrThrow(exists) !== 1) {
    throw new Error(`the flow ${flowId} has no task "${taskId}", or the task was purged`);
  }
  if (text === "") return undefined;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`the result of task "${taskId}" is not JSON: ${messageOf(error)}`, { cause: error });
  }
}

function taskExecutionId(partition: Parameters<typeof mintExecutionId>[0], flowId: FlowId, taskId: string) {
  const namespace = Buffer.from(flowId.replaceAll("-", ""), "hex");
  return unwrap(mintExecutionId(partition, uuidV5(`task:${taskId}`, namespace)));
}

function logOf(log: Log, own: LogFields): Log {
  return {
    info: (message, fields) => log.info(message, { ...own, ...fields }),
    warn: (message, fields) => log.warn(message, { ...own, ...fields }),
    error: (message, fields) => log.error(message, { ...own, ...fields }),
  };
}
