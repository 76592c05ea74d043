/** Finds the execution of a lane that has been eligible for the longest time. */

import { readAll } from "#operate/lanes/read-all.ts";
import type { OperateContext } from "#operate/operation.ts";
import { command } from "#shared/contract/command.ts";
import {
  type ExecutionId,
  type Partition,
  parseExecutionId,
  parseStoredFlowId,
} from "#shared/contract/ids.ts";
import { fieldText, parseTime } from "#shared/contract/record.ts";
import { SUBMISSION_FIELDS } from "#shared/contract/submission.ts";

/** An execution that a worker could claim. */
export interface WaitingExecution {
  readonly id: ExecutionId;
  /** Since when it is eligible, in milliseconds since the epoch. */
  readonly sinceMs: number;
}

/** The first entry of an index in claim order, with its score. */
export interface FirstEligible {
  readonly partition: Partition;
  readonly key: string;
  readonly id: string;
  readonly score: number;
}

/** A score is `created_at - priority * 10^12`: entries of one priority are in one span of this length. */
const PRIORITY_SPAN = 1_000_000_000_000;
/** Priorities of a partition that are looked at, the highest first. */
const MAX_PRIORITIES = 8;

/**
 * Of each partition and priority, the execution that is claimed next; of these, the one that waits for the longest time.
 * Undefined if none of their records says that it is eligible.
 */
export async function readOldest(
  context: OperateContext,
  first: readonly FirstEligible[],
  nowMs: number,
): Promise<WaitingExecution | undefined> {
  const candidates: FirstEligible[] = [...first];
  let open = first;
  for (let priorities = 1; priorities < MAX_PRIORITIES && open.length > 0; priorities += 1) {
    open = await readNextPriority(context, open);
    candidates.push(...open);
  }
  const waiting = await readWaiting(context, candidates, nowMs);
  return waiting.toSorted((left, right) => left.sinceMs - right.sinceMs)[0];
}

/** The first entry of the next lower priority of each index. */
async function readNextPriority(
  { valkey }: OperateContext,
  open: readonly FirstEligible[],
): Promise<FirstEligible[]> {
  const replies = await readAll(
    valkey,
    open.map(({ partition, key, score }) => {
      const next = (Math.floor(score / PRIORITY_SPAN) + 1) * PRIORITY_SPAN;
      return command(partition, "zrangebyscore", key, next, "+inf", "WITHSCORES", "LIMIT", 0, 1);
    }),
  );
  return open.flatMap((one, position) => firstOf(one, replies[position]) ?? []);
}

/** The entry in a reply of a range of one entry with its score. */
export function firstOf(
  { partition, key }: Pick<FirstEligible, "partition" | "key">,
  reply: unknown,
): FirstEligible | undefined {
  const [id = "", score = ""] = Array.isArray(reply) ? reply.map(fieldText) : [];
  return id === "" ? undefined : { partition, key, id, score: Number(score) };
}

async function readWaiting(
  { valkey, router }: OperateContext,
  candidates: readonly FirstEligible[],
  nowMs: number,
): Promise<WaitingExecution[]> {
  const ids = candidates.flatMap(({ id }) => {
    const parsed = parseExecutionId(id);
    return parsed.ok ? [parsed.value] : [];
  });
  const fields = ["eligibility_state", "last_transition_at", "created_at", "flow_id"];
  const records = await readAll(
    valkey,
    ids.map((id) => {
      const { partition, core } = router.execKeys(id);
      return command(partition, "hmget", core, ...fields);
    }),
  );
  const read = ids.map((id, position) => {
    const record = records[position];
    const [eligibility = "", since = "", created = "", flow = ""] = Array.isArray(record)
      ? record.map(fieldText)
      : [];
    return { id, eligibility, sinceMs: parseTime(since), createdMs: parseTime(created), flow };
  });
  const eligible = read.filter(({ eligibility }) => eligibility === "eligible_now");
  // A root that release 0.1 submitted has a time far in the future: the end of the submission counts.
  const released = eligible.filter(({ sinceMs }) => sinceMs !== undefined && sinceMs > nowMs);
  const ends = await readAll(
    valkey,
    released.map(({ id, flow }) => {
      const { partition, core } = router.execKeys(id);
      const flowId = parseStoredFlowId(flow);
      const key = flowId.ok ? router.flowKeys(flowId.value, partition).core : core;
      return command(partition, "hget", key, SUBMISSION_FIELDS.completedAt);
    }),
  );
  return eligible.map((one) => {
    const position = released.indexOf(one);
    const submittedMs = position < 0 ? undefined : parseTime(fieldText(ends[position]));
    const sinceMs = position < 0 ? one.sinceMs : submittedMs;
    return { id: one.id, sinceMs: sinceMs ?? one.createdMs ?? nowMs };
  });
}
