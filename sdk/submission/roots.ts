/**
 * Roots are created delayed until the end of the year 9999, and released when all of the graph exists. An incomplete
 * flow therefore runs nothing, however long it stays incomplete. A delay is a part of the one call that creates an
 * execution, so there is no moment at which a root could be claimed.
 */

import type { Plan, PlannedTask } from "#sdk/submission/plan.ts";
import { command, type Pipelines } from "#shared/contract/command.ts";
import { promoteDelayed } from "#shared/contract/ownership.ts";
import { fieldText } from "#shared/contract/record.ts";
import { ProtocolError, SubmissionError } from "#shared/errors.ts";
import { chunked, doneOrThrow, readEach, sendChunks, valueOrThrow } from "#shared/valkey/batches.ts";

/** 9999-12-31T23:59:59Z: the largest whole second that ISO 8601 can write with four digits for the year. */
export const HELD_UNTIL_MS = Date.UTC(9999, 11, 31, 23, 59, 59);

const OPEN = "open";
/** The execution is eligible, or another submission released it. */
const RELEASED = new Set(["promoted", "not_delayed_cleaned", "not_runnable_cleaned", "not_found_cleaned"]);

/** Whether the task has no upstreams. */
export function isRoot({ incoming }: PlannedTask): boolean {
  return incoming.length === 0;
}

/**
 * Makes the held roots eligible. Call it only if all executions, memberships and edges of the plan exist. Roots that are
 * not held do not change: after its release a root can be delayed again, for a retry.
 *
 * `ff_promote_delayed` takes its time from the caller, so the records of released roots have the end of the year 9999
 * as `last_transition_at` until a worker claims them.
 *
 * @throws SubmissionError if roots are held and the flow was cancelled. They stay held.
 */
export async function releaseRoots(valkey: Pipelines, plan: Plan): Promise<void> {
  const { flow, index } = plan;
  const held = await heldRoots(valkey, plan);
  if (held.length === 0) return;
  const [state] = await valkey.pipelined([command(flow.partition, "hget", flow.core, "public_flow_state")]);
  const text = fieldText(valueOrThrow(state));
  if (text !== OPEN) {
    throw new SubmissionError(
      `flow ${flow.id} is ${text || "in an unknown state"}: ${held.length} of its roots were not released and do not ` +
        "run; submit the workflow with another flow id",
      { retryable: false },
    );
  }
  await sendChunks(chunked(held), async (chunk) => {
    const results = await valkey.pipelined(
      chunk.map(({ keys, task }) => promoteDelayed({ keys, index, lane: task.lane }, HELD_UNTIL_MS)),
    );
    for (const position of chunk.keys()) {
      const { fields } = doneOrThrow("ff_promote_delayed", valueOrThrow(results[position]));
      if (!RELEASED.has(fields[0] ?? "")) {
        throw new ProtocolError(`ff_promote_delayed did not release a root: ${JSON.stringify(fields)}`);
      }
    }
  });
}

async function heldRoots(valkey: Pipelines, plan: Plan): Promise<PlannedTask[]> {
  const roots = plan.tasks.filter(isRoot);
  const delays = await readEach(valkey, roots, ({ keys }) =>
    command(keys.partition, "hget", keys.core, "delay_until"),
  );
  return roots.filter((_, position) => delays[position] === String(HELD_UNTIL_MS));
}
