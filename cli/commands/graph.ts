import { Argument, Option } from "commander";
import { plural } from "#cli/kit/format.ts";
import { readCommand } from "#cli/kit/read-command.ts";
import type { Style } from "#cli/kit/terminal.ts";
import { collapse } from "#operate/graph/collapse.ts";
import { type FlowGraph, joinPages } from "#operate/graph/flow-graph.ts";
import { graphMermaid } from "#operate/graph/mermaid.ts";
import { describeCounts, STATE_STYLES } from "#operate/graph/states.ts";
import { graphSvg } from "#operate/graph/svg.ts";
import { graphText } from "#operate/graph/text.ts";
import { graph } from "#operate/read/graph.ts";

export const graphCommand = readCommand({
  name: "graph",
  summary:
    "Show the graph of a flow with the states of its executions. Executions that are alike become a count.",
  operation: graph,
  arguments: [new Argument("<flow>", "the flow id")],
  options: [
    new Option("--format <format>", "for a terminal, for a Markdown page, or a self-contained image")
      .choices(["text", "mermaid", "svg"])
      .default("text"),
  ],
  examples: [
    "graph 0f8c5f6e-54b7-4c0e-8d6c-1d8f2f0c9a11",
    "graph 0f8c5f6e-54b7-4c0e-8d6c-1d8f2f0c9a11 --format svg > flow.svg",
  ],
  input: ([flow = ""]): { flow: string; states_only: boolean; cursor?: string } => ({
    flow,
    states_only: false,
  }),
  collect: async (run, input) => {
    const first = await run(input);
    const nodes = new Map(first.nodes.map((node) => [node.execution_id, node]));
    for (let { next } = first; next !== undefined; ) {
      const page = await run({ ...input, cursor: next });
      for (const node of page.nodes) nodes.set(node.execution_id, node);
      next = page.next;
    }
    const { flow_id, name, revision } = first;
    return { flow_id, name, revision, nodes: [...nodes.values()] };
  },
  render: (page, style, { format }) => linesOf(joinPages([page]), style, String(format)),
});

function linesOf(flow: FlowGraph, style: Style, format: string): readonly string[] {
  const counts = describeCounts(flow.nodes.map(({ state }) => state));
  const title = flow.name === "" ? flow.flow : flow.name;
  if (format === "mermaid") return graphMermaid(collapse(flow), `${title}: ${counts}`);
  if (format === "svg") return graphSvg(collapse(flow), title, counts).trimEnd().split("\n");
  return [
    `${style.bold(title)}: ${plural(flow.nodes.length, "execution")}, flow ${flow.flow}`,
    counts,
    "",
    ...graphText(flow, { paint: (text, state) => style[STATE_STYLES[state].color](text) }),
  ];
}
