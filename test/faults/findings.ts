/** Compares the state of Valkey after a case with the expectations of the model. Does no I/O. */

import type { Expected } from "#test/faults/graph.ts";

/** The state of one execution in Valkey. */
export interface Observed {
  /** `public_state` of the record; empty if there is no record. */
  readonly state: string;
  /** The names of the lane indexes that contain it. */
  readonly indexes: readonly string[];
  /** `total_attempt_count` and `current_lease_epoch`: how often it was claimed. */
  readonly attempts: number;
  readonly leaseEpoch: number;
  /** `deps:meta`; 0 for an execution without dependencies. */
  readonly unsatisfied: number;
  readonly impossible: number;
  /** The size of `deps:unresolved`. */
  readonly unresolved: number;
}

export interface CaseObservation {
  readonly tasks: readonly Observed[];
  /** The number of cascade messages that the queue accepted. */
  readonly cascades: number;
  /** The allowed number of cascade messages; by default twice the number of skipped executions. */
  readonly maxCascades?: number;
  /** Whether an ended execution may have unresolved edges. */
  readonly mayLeaveEdges?: boolean;
}

/** What went wrong, each as a sentence. */
export interface Findings {
  /** Tasks that have not reached their expected state. */
  readonly lost: readonly string[];
  readonly wronglySkipped: readonly string[];
  /** Repeated transitions or messages. */
  readonly duplicated: readonly string[];
  /** Indexes, records and counters that contradict each other. */
  readonly inconsistent: readonly string[];
}

const COPIES_ALLOWED = 2;

export function compareWithModel(expected: readonly Expected[], observation: CaseObservation): Findings {
  const lost: string[] = [];
  const wronglySkipped: string[] = [];
  const duplicated: string[] = [];
  for (const [task, wanted] of expected.entries()) {
    const found = observation.tasks[task];
    if (found === undefined) {
      lost.push(`task ${task}: no state was read`);
      continue;
    }
    if (found.state !== wanted.state) {
      const list = found.state === "skipped" ? wronglySkipped : lost;
      list.push(`task ${task}: is ${found.state || "without a record"}, expected ${wanted.state}`);
    }
    const mayLeaveEdges = observation.mayLeaveEdges === true && found.indexes.includes("terminal");
    if (!mayLeaveEdges) lost.push(...openEdges(wanted, found).map((what) => `task ${task}: ${what}`));
    lost.push(...wrongIndexes(wanted, found).map((what) => `task ${task}: ${what}`));
    duplicated.push(...repetitions(wanted, found).map((what) => `task ${task}: ${what}`));
  }
  const skipped = expected.filter(({ state }) => state === "skipped").length;
  const max = observation.maxCascades ?? COPIES_ALLOWED * skipped;
  if (observation.cascades > max) {
    duplicated.push(`${observation.cascades} cascade messages for ${skipped} skipped executions`);
  }
  return { lost, wronglySkipped, duplicated, inconsistent: [] };
}

/** Every upstream has ended by now, so no edge may be unresolved. */
function openEdges(expected: Expected, { unsatisfied, unresolved }: Observed): string[] {
  return unsatisfied > 0 || unresolved > 0
    ? [`${unsatisfied} of ${expected.upstreams} edges are unsatisfied, ${unresolved} unresolved`]
    : [];
}

function wrongIndexes(expected: Expected, found: Observed): string[] {
  const problems: string[] = [];
  if (found.indexes.length === 0) problems.push("is in no index");
  if (found.indexes.length === 1 && found.indexes[0] !== "terminal") {
    problems.push(`is in the index ${found.indexes[0]}`);
  }
  if (found.attempts < expected.runs)
    problems.push(`was claimed ${found.attempts} times, expected ${expected.runs}`);
  return problems;
}

function repetitions(expected: Expected, found: Observed): string[] {
  const problems: string[] = [];
  if (found.attempts > expected.runs || found.leaseEpoch > expected.runs) {
    problems.push(
      `was claimed ${found.attempts} times (lease epoch ${found.leaseEpoch}), expected ${expected.runs}`,
    );
  }
  if (found.indexes.length > 1) problems.push(`is in several indexes: ${found.indexes.join(", ")}`);
  if (found.unsatisfied < 0) problems.push(`its count of unsatisfied edges is ${found.unsatisfied}`);
  if (found.unsatisfied === 0 && found.impossible !== expected.impossible) {
    problems.push(`its count of impossible edges is ${found.impossible}, expected ${expected.impossible}`);
  }
  return problems;
}

export function join(all: readonly Findings[]): Findings {
  return {
    lost: all.flatMap(({ lost }) => lost),
    wronglySkipped: all.flatMap(({ wronglySkipped }) => wronglySkipped),
    duplicated: all.flatMap(({ duplicated }) => duplicated),
    inconsistent: all.flatMap(({ inconsistent }) => inconsistent),
  };
}

export function isClean({ lost, wronglySkipped, duplicated, inconsistent }: Findings): boolean {
  return lost.length + wronglySkipped.length + duplicated.length + inconsistent.length === 0;
}
