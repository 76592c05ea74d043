import { useState } from "preact/hooks";
import { type State, stateOf } from "#operate/graph/states.ts";
import type { GraphModel } from "#page/graph/model.ts";
import { StateLabel } from "#page/icons.tsx";

/** A browser takes seconds for a table of thousands of rows. */
const FIRST_ROWS = 300;

interface TaskListProps {
  readonly model: GraphModel;
  readonly states: readonly string[];
  /** Only tasks in this state. */
  readonly shown: State | undefined;
  readonly selected: number | undefined;
  readonly onSelect: (node: number) => void;
}

/** The tasks of a flow as a table: the same as the graph, for the keyboard and for readers of the screen. */
export function TaskList({ model, states, shown, selected, onSelect }: TaskListProps) {
  const [isWhole, setWhole] = useState(false);
  const nodes = [...model.nodes.keys()].filter(
    (node) => shown === undefined || stateOf(states[node] ?? "") === shown,
  );
  const rows = isWhole ? nodes : nodes.slice(0, FIRST_ROWS);
  return (
    <div class="table-holder">
      <table class="tasks">
        <thead>
          <tr>
            <th scope="col">Task</th>
            <th scope="col">State</th>
            <th scope="col">Lane</th>
            <th scope="col">Depends on</th>
          </tr>
        </thead>
        <tbody>
          {rows.map((node) => {
            const { execution, name, lane } = model.nodes[node] ?? { execution: "", name: "", lane: "" };
            const state = states[node] ?? "";
            return (
              <tr key={execution} aria-selected={node === selected}>
                <td>
                  <button type="button" class="link" onClick={() => onSelect(node)}>
                    {name}
                  </button>
                </td>
                <td>
                  <StateLabel state={state} />
                </td>
                <td>{lane}</td>
                <td class="number">{model.upstream[node]?.length ?? 0}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
      {rows.length < nodes.length && (
        <button type="button" class="rest" onClick={() => setWhole(true)}>
          Show {(nodes.length - rows.length).toLocaleString("en-US")} more
        </button>
      )}
    </div>
  );
}
