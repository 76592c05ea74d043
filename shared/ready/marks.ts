/**
 * Marks of announced executions. All marks of one flow are fields of one hash, so that one command reads or writes those of
 * any number of executions.
 *
 * A mark names one eligibility of an execution: a retry, a replay or a reclaim has another one, so that it is announced again.
 * Write the mark after the queue has accepted the message: a process that dies in between sends the message twice, and one
 * that marks first would lose it.
 */

import { command, type ValkeyCommand } from "#shared/contract/command.ts";
import type { ExecutionId, FlowId, Partition } from "#shared/contract/ids.ts";
import { readyMarksKey } from "#shared/contract/keys.ts";

/**
 * How long the marks of a flow are kept after the last one was written, in seconds. After that, a redelivery announces an
 * execution again, which changes nothing.
 */
const MARKS_TTL_SECONDS = 86_400;

/** Names one eligibility: `<replay_count>:<total_attempt_count>`. A missing count is 0. */
export function eligibilityOf(replayCount: string, totalAttemptCount: string): string {
  return `${replayCount || "0"}:${totalAttemptCount || "0"}`;
}

/** Reads the marks of executions of one flow and partition, in their order; null where there is none. */
export function readMarks(
  partition: Partition,
  flow: FlowId | undefined,
  executions: readonly ExecutionId[],
): ValkeyCommand {
  return command(partition, "hmget", readyMarksKey(partition, flow), ...executions.map(fieldOf));
}

/** An execution that was announced, and its eligibility then. */
export interface Announced {
  readonly executionId: ExecutionId;
  readonly eligibility: string;
}

/** Marks executions of one flow and partition as announced. */
export function writeMarks(
  partition: Partition,
  flow: FlowId | undefined,
  announced: readonly Announced[],
): ValkeyCommand[] {
  const key = readyMarksKey(partition, flow);
  const fields = announced.flatMap(({ executionId, eligibility }) => [fieldOf(executionId), eligibility]);
  return [command(partition, "hset", key, ...fields), command(partition, "expire", key, MARKS_TTL_SECONDS)];
}

/** The UUID: the partition is in the key's name. */
function fieldOf(executionId: ExecutionId): string {
  return executionId.slice(executionId.indexOf("}:") + 2);
}
