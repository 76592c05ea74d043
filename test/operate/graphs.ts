import type { FlowGraph } from "#operate/graph/flow-graph.ts";
import type { State } from "#operate/graph/states.ts";

/** A graph from its executions, each with the names of its upstreams. They have completed unless `states` says otherwise. */
export function graphOf(
  upstreams: Readonly<Record<string, readonly string[]>>,
  states: Readonly<Record<string, State>> = {},
  kindOf: (name: string) => string = () => "task",
): FlowGraph {
  const names = Object.keys(upstreams);
  const positions = new Map(names.map((name, position) => [name, position]));
  const downstream = names.map((): number[] => []);
  const upstream = names.map((name, child) =>
    (upstreams[name] ?? []).map((parent) => {
      const position = positions.get(parent);
      if (position === undefined) throw new RangeError(`${name} depends on ${parent}, which the graph lacks`);
      downstream[position]?.push(child);
      return position;
    }),
  );
  return {
    flow: "00000000-0000-4000-8000-000000000001",
    name: "example",
    nodes: names.map((name, position) => ({
      execution: `{fp:1}:00000000-0000-4000-8000-${String(position).padStart(12, "0")}`,
      name,
      kind: kindOf(name),
      lane: "default",
      state: states[name] ?? "completed",
      upstream: upstream[position] ?? [],
      downstream: downstream[position] ?? [],
    })),
  };
}
