/**
 * Sluice's own fields of a flow's record, which tell a half-submitted flow from a complete one: `workflow_name` and
 * `submission_tasks`, written when the flow has just been created, and `submission_completed_at`, written last.
 *
 * They are written by scripts, because a plain HSET would create the record again of a flow that has just been purged.
 *
 * The first script also lists the flow by its creation time, as `ff_create_flow` of Sluice's library does. With FlowFabric's
 * library, nothing else does, and its projector removes flows that have ended from `flow_index`.
 */

import { command, type ValkeyCommand } from "#shared/contract/command.ts";
import type { FlowKeys, IndexKeys } from "#shared/contract/keys.ts";
import { SUBMISSION_FIELDS } from "#shared/contract/submission.ts";

const MARK_STARTED = `
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSETNX', KEYS[1], '${SUBMISSION_FIELDS.name}', ARGV[1])
  redis.call('HSETNX', KEYS[1], '${SUBMISSION_FIELDS.tasks}', ARGV[2])
  local created_at = tonumber(redis.call('HGET', KEYS[1], 'created_at') or '') or 0
  redis.call('ZADD', KEYS[2], 'NX', string.format('%.0f', created_at), ARGV[3])
end
return 0`;

const MARK_COMPLETED = `
if redis.call('EXISTS', KEYS[1]) == 1 then
  local time = redis.call('TIME')
  local now = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
  redis.call('HSETNX', KEYS[1], '${SUBMISSION_FIELDS.completedAt}', now)
end
return 0`;

/** Records the workflow's name and number of tasks, unless an earlier submission did. */
export function markStarted(flow: FlowKeys, index: IndexKeys, name: string, tasks: number): ValkeyCommand {
  const keys = [flow.core, index.flowsCreated];
  return command(flow.partition, "eval", MARK_STARTED, keys.length, ...keys, name, tasks, flow.id);
}

/** Records that all of the flow exists and its roots are released, unless an earlier submission did. Server time. */
export function markCompleted(flow: FlowKeys): ValkeyCommand {
  return command(flow.partition, "eval", MARK_COMPLETED, 1, flow.core);
}
