/** A collapsed graph as a flowchart of Mermaid, which GitHub and many editors draw. */

import type { CollapsedGraph } from "#operate/graph/collapse.ts";
import { labelOf } from "#operate/graph/labels.ts";
import { STATE_STYLES } from "#operate/graph/states.ts";

const MAX_LABEL = 48;
/** Readable on a white and on a dark page. */
const CLASSES = {
  green: "fill:#dcfce7,stroke:#15803d,color:#14532d",
  red: "fill:#fee2e2,stroke:#b91c1c,color:#7f1d1d",
  yellow: "fill:#fef9c3,stroke:#a16207,color:#713f12",
  cyan: "fill:#cffafe,stroke:#0e7490,color:#164e63",
  dim: "fill:#f3f4f6,stroke:#6b7280,color:#374151",
} as const;

/** `title` is shown above the graph. */
export function graphMermaid(graph: CollapsedGraph, title: string): string[] {
  const byColor = Map.groupBy(graph.nodes, ({ state }) => STATE_STYLES[state].color);
  return [
    "---",
    `title: ${JSON.stringify(title)}`,
    "---",
    "flowchart LR",
    ...graph.nodes.map((node) => {
      const [name, detail] = labelOf(node, graph.by, MAX_LABEL);
      return `  ${node.id}["${escaped(name)}<br>${escaped(detail)}"]`;
    }),
    ...graph.edges.map(({ from, to }) => `  ${from} --> ${to}`),
    ...[...byColor].flatMap(([color, nodes]) => [
      `  classDef ${color} ${CLASSES[color]}`,
      `  class ${nodes.map(({ id }) => id).join(",")} ${color}`,
    ]),
  ];
}

/**
 * Writes a text for a quoted label. Mermaid searches labels for quotes, markup, directives and, in a regular expression over
 * whole lines, for `style…:`: so all ASCII punctuation that is not known to be harmless is written by its code point.
 */
function escaped(text: string): string {
  return text.replace(/[^\p{L}\p{N} _.,+/()✓✗▶…?-]/gu, (character) => `#${character.codePointAt(0)};`);
}
