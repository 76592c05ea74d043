/** A model of a dependency graph: the expected final state of each task. */

import type { EdgeGroupPolicy } from "#shared/contract/groups.ts";

export interface ModelGraph {
  /** How a task ends if it runs. Tasks are numbered. */
  readonly outcomes: readonly ("success" | "failed" | "cancelled")[];
  /** Pairs of an upstream and a downstream with a higher number. */
  readonly edges: readonly (readonly [upstream: number, downstream: number])[];
  /** The edge group of each task; without one, all its upstreams must succeed. 14-KEYS edition only. */
  readonly groups?: readonly (EdgeGroupPolicy | undefined)[];
}

/**
 * A task runs if enough of its upstreams succeed; otherwise it is skipped. `siblings` are the tasks that were cancelled
 * because a group was decided without them: which ones depends on the order of the run.
 */
export function finalStates(graph: ModelGraph, siblings: ReadonlySet<number> = new Set()): string[] {
  const states: string[] = [];
  for (const [task, outcome] of graph.outcomes.entries()) {
    if (siblings.has(task)) {
      states.push("cancelled");
      continue;
    }
    const upstreams = graph.edges.filter(([, down]) => down === task).map(([up]) => states[up]);
    const succeeded = upstreams.filter((state) => state === "completed").length;
    const runs = upstreams.length === 0 || succeeded >= needed(graph.groups?.[task], upstreams.length);
    states.push(!runs ? "skipped" : outcome === "success" ? "completed" : outcome);
  }
  return states;
}

function needed(policy: EdgeGroupPolicy | undefined, upstreams: number): number {
  if (policy?.variant === "any_of") return 1;
  return policy?.variant === "quorum" ? policy.k : upstreams;
}
