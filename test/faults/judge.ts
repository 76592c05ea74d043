/** Compares what stands in Valkey after a case with what the model says. Pure: what it finds can be tested. */

import type { Expected } from "#test/faults/graph.ts";

/** How one execution stands. */
export interface Observed {
  /** The record's `public_state`; empty: there is no record. */
  readonly state: string;
  /** The lane's indexes in which it stands, by their names. */
  readonly indexes: readonly string[];
  /** `total_attempt_count` and `current_lease_epoch`: how often it was taken. */
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
  /** Cascade messages that the queue accepted. */
  readonly cascades: number;
  /** More than so many are too many. Twice the skipped executions unless given. */
  readonly mostCascades?: number;
  /** Whether an execution that has ended may have open edges. */
  readonly mayLeaveEdges?: boolean;
}

/** What went wrong, each in a sentence for a person. */
export interface Findings {
  /** Children that have not become what their upstreams make of them. */
  readonly lost: readonly string[];
  readonly wronglySkipped: readonly string[];
  /** Transitions or messages that came more than once. */
  readonly duplicated: readonly string[];
}

const COPIES_ALLOWED = 2;

export function judge(expected: readonly Expected[], observation: CaseObservation): Findings {
  const lost: string[] = [];
  const wronglySkipped: string[] = [];
  const duplicated: string[] = [];
  for (const [task, wanted] of expected.entries()) {
    const found = observation.tasks[task];
    if (found === undefined) {
      lost.push(`task ${task}: was not observed`);
      continue;
    }
    if (found.state !== wanted.state) {
      const list = found.state === "skipped" ? wronglySkipped : lost;
      list.push(`task ${task}: is ${found.state || "without a record"} and should be ${wanted.state}`);
    }
    const mayLeaveEdges = observation.mayLeaveEdges === true && found.indexes.includes("terminal");
    if (!mayLeaveEdges) lost.push(...openEdges(wanted, found).map((what) => `task ${task}: ${what}`));
    lost.push(...misplacements(wanted, found).map((what) => `task ${task}: ${what}`));
    duplicated.push(...repetitions(wanted, found).map((what) => `task ${task}: ${what}`));
  }
  const skipped = expected.filter(({ state }) => state === "skipped").length;
  const most = observation.mostCascades ?? COPIES_ALLOWED * skipped;
  if (observation.cascades > most) {
    duplicated.push(`${observation.cascades} cascade messages for ${skipped} skipped executions`);
  }
  return { lost, wronglySkipped, duplicated };
}

/** Every upstream of a case has ended when it is judged, so nothing may be open. */
function openEdges(wanted: Expected, { unsatisfied, unresolved }: Observed): string[] {
  return unsatisfied > 0 || unresolved > 0
    ? [`waits for ${unsatisfied} (${unresolved} unresolved) of ${wanted.upstreams} edges`]
    : [];
}

function misplacements(wanted: Expected, found: Observed): string[] {
  const faults: string[] = [];
  if (found.indexes.length === 0) faults.push("stands in no index");
  if (found.indexes.length === 1 && found.indexes[0] !== "terminal") {
    faults.push(`stands in the index ${found.indexes[0]}`);
  }
  if (found.attempts < wanted.runs) faults.push(`was taken ${found.attempts} times, not ${wanted.runs}`);
  return faults;
}

function repetitions(wanted: Expected, found: Observed): string[] {
  const faults: string[] = [];
  if (found.attempts > wanted.runs || found.leaseEpoch > wanted.runs) {
    faults.push(`was taken ${found.attempts} times (epoch ${found.leaseEpoch}), not ${wanted.runs}`);
  }
  if (found.indexes.length > 1) faults.push(`stands in ${found.indexes.join(" and ")}`);
  if (found.unsatisfied < 0) faults.push(`counts ${found.unsatisfied} unsatisfied edges`);
  if (found.unsatisfied === 0 && found.impossible !== wanted.impossible) {
    faults.push(`counts ${found.impossible} impossible edges, not ${wanted.impossible}`);
  }
  return faults;
}

export function join(all: readonly Findings[]): Findings {
  return {
    lost: all.flatMap(({ lost }) => lost),
    wronglySkipped: all.flatMap(({ wronglySkipped }) => wronglySkipped),
    duplicated: all.flatMap(({ duplicated }) => duplicated),
  };
}

export function isClean({ lost, wronglySkipped, duplicated }: Findings): boolean {
  return lost.length + wronglySkipped.length + duplicated.length === 0;
}
