import { useEffect, useState } from "preact/hooks";
import { type GraphModel, type GraphOutput, modelOf } from "#page/graph/model.ts";
import { live } from "#page/live.ts";

export interface LiveGraph {
  readonly model?: GraphModel;
  /** By position. A new array for each change. */
  readonly states: readonly string[];
  readonly error?: string;
}

const NONE: LiveGraph = { states: [] };

/** Watches the graph of a flow. */
export function useGraph(flow: string): LiveGraph {
  const [graph, setGraph] = useState<LiveGraph>(NONE);
  useEffect(() => {
    setGraph(NONE);
    return live.watch({ operation: "graph", input: { flow } }, (update) => {
      setGraph((last) => {
        if ("error" in update) return { ...last, error: update.error };
        if ("states" in update) return { ...last, states: withChanges(last, update.states) };
        const output = update.output as GraphOutput;
        const model = modelOf(output);
        const states = new Array<string>(model.nodes.length).fill("");
        for (const node of output.nodes) states[model.byExecution.get(node.execution_id) ?? 0] = node.state;
        return { model, states };
      });
    });
  }, [flow]);
  return graph;
}

function withChanges(
  { model, states }: LiveGraph,
  changed: Readonly<Record<string, string>>,
): readonly string[] {
  const next = [...states];
  for (const [execution, state] of Object.entries(changed)) {
    const position = model?.byExecution.get(execution);
    if (position !== undefined) next[position] = state;
  }
  return next;
}
