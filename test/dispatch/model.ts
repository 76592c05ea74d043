/** A dependency graph as a model: what must become of each task, in a few lines. */

export interface ModelGraph {
  /** How a task ends if it runs. Tasks are numbered. */
  readonly outcomes: readonly ("success" | "failed" | "cancelled")[];
  /** Pairs of an upstream and a downstream with a greater number. */
  readonly edges: readonly (readonly [upstream: number, downstream: number])[];
}

/** A task is skipped exactly if one of its upstreams does not succeed; otherwise it runs. */
export function finalStates(graph: ModelGraph): string[] {
  const states: string[] = [];
  for (const [task, outcome] of graph.outcomes.entries()) {
    const doomed = graph.edges.some(([up, down]) => down === task && states[up] !== "completed");
    states.push(doomed ? "skipped" : outcome === "success" ? "completed" : outcome);
  }
  return states;
}
