/** How the executions stand that the indexes call blocked. */

import { command } from "#shared/contract/command.ts";
import { fieldText, parseTime } from "#shared/contract/record.ts";
import type { Failures, Run } from "#shared/reconcile/run.ts";
import type { Candidate } from "#shared/reconcile/scan.ts";

/** An execution that waits for its dependencies, by its own record. */
export interface Blocked extends Candidate {
  /** Edges that are not resolved yet. */
  readonly unresolved: number;
  /** Edges that can never be satisfied. An execution with one is skipped, and never waits. */
  readonly impossible: number;
  /** The lane of its record. */
  readonly lane: string;
  /** When an edge of it was applied or resolved last, in milliseconds since the epoch. */
  readonly changedAtMs: number | undefined;
}

const CORE_FIELDS = ["execution_id", "lifecycle_phase", "eligibility_state", "terminal_outcome", "lane_id"];
const META_FIELDS = ["impossible_required_count", "last_dependency_update_at"];

/** Of the candidates those that are blocked still, in one round trip. */
export async function readBlocked(
  run: Run,
  candidates: readonly Candidate[],
  failures: Failures,
): Promise<Blocked[]> {
  if (candidates.length === 0) return [];
  const results = await run.ports.valkey.pipelined(
    candidates.flatMap(({ keys: { partition, core, depsMeta, depsUnresolved } }) => [
      command(partition, "hmget", core, ...CORE_FIELDS),
      command(partition, "hmget", depsMeta, ...META_FIELDS),
      command(partition, "scard", depsUnresolved),
    ]),
  );
  return candidates.flatMap((candidate, position): Blocked[] => {
    const [core, meta, count] = results.slice(3 * position, 3 * position + 3);
    const failure = [core, meta, count].find((result) => result?.ok !== true);
    if (!core?.ok || !meta?.ok || !count?.ok) {
      failures.add(candidate.unit, failure?.ok === false ? failure.error : new Error("no result"));
      return [];
    }
    const [id, phase, eligibility, outcome, lane = ""] = fieldsOf(core.value);
    if (id === "" && phase === "") {
      run.unreadable("a blocked execution has no record", { execution_id: candidate.keys.id });
      return [];
    }
    // It moved on since the index was read, or the index is wrong about it: nobody waits.
    const isBlocked = phase === "runnable" && eligibility === "blocked_by_dependencies";
    if (!isBlocked || (outcome !== "" && outcome !== "none")) return [];
    const [impossible = "", changedAt = ""] = fieldsOf(meta.value);
    return [
      {
        ...candidate,
        lane,
        unresolved: Number(count.value),
        impossible: Number(impossible),
        changedAtMs: parseTime(changedAt),
      },
    ];
  });
}

function fieldsOf(value: unknown): string[] {
  return Array.isArray(value) ? value.map(fieldText) : [];
}
