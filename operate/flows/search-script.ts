/**
 * Searches the flows of one partition inside the server: a search over 100,000 flows then sends the matches and not the
 * flows. The script only reads. It works with any library, and finds flows that are not in `flows_created` through
 * `flow_index`: those that FlowFabric or Sluice 0.1 created.
 */

import { command, type ValkeyCommand } from "#shared/contract/command.ts";
import type { IndexKeys } from "#shared/contract/keys.ts";
import { fieldText } from "#shared/contract/record.ts";
import { ProtocolError } from "#shared/errors.ts";

/** The states of a flow. A library that keeps no counts does not record one: then it is computed from the members. */
export const FLOW_STATES = ["running", "completed", "failed", "cancelled"] as const;
export type FlowState = (typeof FLOW_STATES)[number];

/** A flow's place in the list: newer flows first, and flows of the same millisecond by their ids. */
export interface Place {
  readonly createdAt: number;
  readonly id: string;
}

/** Before every flow. */
export const NEWEST: Place = { createdAt: Number.MAX_SAFE_INTEGER, id: "" };

/** Whether `left` comes before `right` in the list. */
export function isNewer(left: Place, right: Place): boolean {
  return left.createdAt === right.createdAt ? left.id > right.id : left.createdAt > right.createdAt;
}

export interface FlowFilter {
  /** Undefined: in any state. */
  readonly state: FlowState | undefined;
  /** A part of the workflow's name. The letters A to Z match in any case. Empty: any name. */
  readonly name: string;
  /** Flows created at this time or later. Milliseconds since the epoch. */
  readonly createdSince: number;
}

export type FlowCounts = Readonly<Record<FlowState | "uncounted", number>>;

/** What one call found. */
export interface FoundFlows {
  readonly flows: readonly Place[];
  /** How many flows match, by state. `uncounted`: neither the record nor the summary tells it. Only without a limit. */
  readonly counts: FlowCounts;
  /** The last flow that it looked at. Undefined: there is no further flow. */
  readonly stoppedAt: Place | undefined;
  /** Whether `flow_index` has flows that `flows_created` lacks. */
  readonly hasUnlisted: boolean;
}

/** Flows that one call looks at, at most: one to three milliseconds of the server's time. */
const MAX_EXAMINED = 500;

// Entries of both indexes are merged in the order of the list. The flows of flow_index that flows_created lacks are sorted
// here: with Sluice's library there are none.
const SEARCH = `
local since, before, before_id = ARGV[2], tonumber(ARGV[3]), ARGV[4]
local state_wanted, name_wanted, limit, max_examined = ARGV[5], ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local counts = { running = 0, completed = 0, failed = 0, cancelled = 0, uncounted = 0 }
local found, examined, last_score, last_id = {}, 0, false, false
local function state_of(flow)
  local public_state = redis.call('HGET', flow .. ':core', 'public_flow_state')
  if not public_state or public_state == 'cancelled' then return public_state end
  local values = redis.call('HMGET', flow .. ':summary', 'members_open', 'total_members', 'members_failed',
    'members_cancelled', 'members_expired')
  if not values[1] then
    return redis.call('HGET', flow .. ':core', 'node_count') == '0' and 'running' or 'uncounted'
  end
  if values[1] ~= '0' or values[2] == '0' then return 'running' end
  for column = 3, 5 do
    if values[column] and values[column] ~= '0' then return 'failed' end
  end
  return 'completed'
end
local function examine(score, id)
  examined, last_score, last_id = examined + 1, score, id
  local flow = ARGV[1] .. id
  if name_wanted ~= '' then
    local name = redis.call('HGET', flow .. ':core', 'workflow_name')
    if not name or not string.find(string.lower(name), name_wanted, 1, true) then return end
  end
  if limit == 0 or state_wanted ~= '' then
    local state = state_of(flow)
    if not state or state_wanted ~= '' and state ~= state_wanted and state ~= 'uncounted' then return end
    counts[state] = counts[state] + 1
  end
  if limit > 0 then
    found[#found + 1] = string.format('%.0f', score)
    found[#found + 1] = id
  end
end
local function is_in_range(score, id)
  return score >= tonumber(since) and (score < before or (score == before and id < before_id))
end
local function is_full()
  return examined >= max_examined or (limit > 0 and #found >= 2 * limit)
end
local unlisted, has_unlisted = {}, 0
for _, id in ipairs(ARGV[9] == '1' and redis.call('ZDIFF', 2, KEYS[2], KEYS[1]) or {}) do
  has_unlisted = 1
  local score = tonumber(redis.call('HGET', ARGV[1] .. id .. ':core', 'created_at') or '') or 0
  if is_in_range(score, id) then unlisted[#unlisted + 1] = { score, id } end
end
table.sort(unlisted, function(left, right)
  return left[1] > right[1] or (left[1] == right[1] and left[2] > right[2])
end)
local next_unlisted = 1
local function examine_unlisted_before(score, id)
  local entry = unlisted[next_unlisted]
  while entry and not is_full() and (entry[1] > score or (entry[1] == score and entry[2] > id)) do
    examine(entry[1], entry[2])
    next_unlisted = next_unlisted + 1
    entry = unlisted[next_unlisted]
  end
end
local offset, size, is_done = 0, limit > 0 and limit * 2 or max_examined, false
while not is_done and not is_full() do
  local entries = redis.call('ZREVRANGEBYSCORE', KEYS[1], ARGV[3], since, 'WITHSCORES', 'LIMIT', offset, size)
  for position = 1, #entries, 2 do
    local id, score = entries[position], tonumber(entries[position + 1])
    if is_in_range(score, id) then
      examine_unlisted_before(score, id)
      if is_full() then break end
      examine(score, id)
      if is_full() then break end
    end
  end
  is_done = #entries < 2 * size
  offset, size = offset + size, math.min(size * 4, max_examined)
end
if is_done and not is_full() then examine_unlisted_before(-1, '') end
local is_complete = is_done and not is_full()
return { is_complete and '' or string.format('%.0f', last_score), is_complete and '' or last_id, counts.running,
  counts.completed, counts.failed, counts.cancelled, counts.uncounted, found, has_unlisted }`;

/**
 * Searches the flows of a partition after a place in the list. With a `limit`, the call ends when it has found as many
 * flows. Without one, it only counts. `mayBeUnlisted`: whether to look for flows that are not in `flows_created`, which reads
 * all of both indexes. A flow that did not exist at the first page comes before all later pages, so one look is enough.
 */
export function searchFlows(
  index: IndexKeys,
  filter: FlowFilter,
  after: Place,
  limit: number | undefined,
  mayBeUnlisted: boolean,
): ValkeyCommand {
  const { flowsCreated, flowIndex, partition } = index;
  return command(
    partition,
    "eval_ro",
    SEARCH,
    2,
    flowsCreated,
    flowIndex,
    `ff:flow:{fp:${partition}}:`,
    filter.createdSince,
    after.createdAt,
    after.id,
    filter.state ?? "",
    // As string.lower of Lua: letters of other scripts keep their case.
    filter.name.replace(/[A-Z]+/g, (letters) => letters.toLowerCase()),
    limit ?? 0,
    MAX_EXAMINED,
    mayBeUnlisted ? 1 : 0,
  );
}

/** Decodes the reply of `searchFlows`. */
export function decodeFlows(reply: unknown): FoundFlows {
  const [
    stoppedAt,
    stoppedId,
    running,
    completed,
    failed,
    cancelled,
    uncounted,
    found,
    unlisted,
  ]: readonly unknown[] = Array.isArray(reply) ? reply : [];
  if (!Array.isArray(found)) throw new ProtocolError("the search for flows has a malformed reply");
  const flows: Place[] = [];
  for (let position = 0; position < found.length; position += 2) {
    flows.push({ createdAt: Number(found[position]), id: fieldText(found[position + 1]) });
  }
  const id = fieldText(stoppedId);
  return {
    flows,
    counts: {
      running: Number(running),
      completed: Number(completed),
      failed: Number(failed),
      cancelled: Number(cancelled),
      uncounted: Number(uncounted),
    },
    stoppedAt: id === "" ? undefined : { createdAt: Number(stoppedAt), id },
    hasUnlisted: unlisted === 1,
  };
}
