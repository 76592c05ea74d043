/** Reads which of the executions in an index are really blocked, according to their own records. */

import { command } from "#shared/contract/command.ts";
import { type LaneId, parseExecutionId, partitionOf } from "#shared/contract/ids.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { fieldText, parseTime } from "#shared/contract/record.ts";
import { isRecordError, ValkeyError } from "#shared/errors.ts";
import type { IndexEntry } from "#shared/reconcile/indexes.ts";
import { pipelineEach } from "#shared/reconcile/outcome.ts";
import type { TaskRun } from "#shared/reconcile/run.ts";

/** An execution that the index of a lane lists as blocked. */
export interface Candidate {
  readonly keys: ExecKeys;
  readonly indexLane: LaneId;
}

/** The execution of an index entry. Undefined, and reported, if the entry is no execution of the index's partition. */
export function candidateOf(
  run: TaskRun,
  { index: { lane, partition }, member }: IndexEntry,
): Candidate | undefined {
  const id = parseExecutionId(member);
  if (lane !== undefined && id.ok && partitionOf(id.value) === partition) {
    return { indexLane: lane, keys: run.ports.router.execKeys(id.value) };
  }
  run.reportUnreadable("index entry skipped: not an execution of its partition", {
    lane: lane ?? "",
    partition,
    reason: id.ok ? `${id.value} belongs to another partition` : id.error.message,
  });
  return undefined;
}

/** An execution that waits for its dependencies, according to its own record. */
export interface BlockedExecution extends Candidate {
  /** Number of unresolved edges. */
  readonly unresolved: number;
  /** Number of edges that can never be satisfied. An execution with one should have been skipped. */
  readonly impossible: number;
  /** The lane in its record. */
  readonly lane: string;
  /** When one of its edges was last applied or resolved, in milliseconds since the epoch. */
  readonly changedAtMs: number | undefined;
}

/** What the record of one candidate says. */
export type BlockedRead = { readonly candidate: Candidate } & (
  | { readonly kind: "blocked"; readonly execution: BlockedExecution }
  /** The execution has moved on since the index was read, or its record is missing or unreadable. There is nothing to do. */
  | { readonly kind: "not_blocked" }
  | { readonly kind: "failed"; readonly error: Error }
);

const CORE_FIELDS = ["execution_id", "lifecycle_phase", "eligibility_state", "terminal_outcome", "lane_id"];
const META_FIELDS = ["impossible_required_count", "last_dependency_update_at"];

/** Reads all candidates in one round trip. Returns one read per candidate, in their order. */
export async function readBlocked(run: TaskRun, candidates: readonly Candidate[]): Promise<BlockedRead[]> {
  const results = await pipelineEach(
    run.ports.valkey,
    candidates.flatMap(({ keys: { partition, core, depsMeta, depsUnresolved } }) => [
      command(partition, "hmget", core, ...CORE_FIELDS),
      command(partition, "hmget", depsMeta, ...META_FIELDS),
      command(partition, "scard", depsUnresolved),
    ]),
    (blockedCommand) => blockedCommand,
  );
  return candidates.map((candidate, position): BlockedRead => {
    const replies = results.slice(3 * position, 3 * position + 3).map(({ result }) => result);
    const [core, meta, count] = replies;
    if (!core?.ok || !meta?.ok || !count?.ok) {
      const failures = replies.flatMap((reply) => (reply.ok ? [] : [reply.error]));
      const [error = new ValkeyError("no result for a command")] = failures;
      if (failures.length === 0 || !failures.every(isRecordError))
        return { kind: "failed", candidate, error };
      run.reportUnreadable("blocked execution skipped: its record cannot be read", {
        execution_id: candidate.keys.id,
        reason: error.message,
      });
      return { kind: "not_blocked", candidate };
    }
    const [id, phase, eligibility, outcome, lane = ""] = fieldsOf(core.value);
    if (id === "" && phase === "") {
      run.reportUnreadable("blocked execution has no record", { execution_id: candidate.keys.id });
      return { kind: "not_blocked", candidate };
    }
    const isBlocked = phase === "runnable" && eligibility === "blocked_by_dependencies";
    if (!isBlocked || (outcome !== "" && outcome !== "none")) return { kind: "not_blocked", candidate };
    const [impossible = "", changedAt = ""] = fieldsOf(meta.value);
    const execution: BlockedExecution = {
      ...candidate,
      lane,
      unresolved: Number(count.value),
      impossible: Number(impossible),
      changedAtMs: parseTime(changedAt),
    };
    return { kind: "blocked", candidate, execution };
  });
}

function fieldsOf(value: unknown): string[] {
  return Array.isArray(value) ? value.map(fieldText) : [];
}
