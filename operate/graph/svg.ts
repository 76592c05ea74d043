/** A collapsed graph as an SVG image without references to other files. Its colors follow the theme of the viewer. */

import type { CollapsedGraph } from "#operate/graph/collapse.ts";
import { labelOf } from "#operate/graph/labels.ts";
import { type Layout, layout, type Point } from "#operate/graph/layout.ts";
import { STATE_STYLES } from "#operate/graph/states.ts";
import { printable } from "#operate/graph/text.ts";

const MAX_LABEL = 34;
const FONT = 13;
const SMALL_FONT = 11;
/** Widths of a character of a monospaced font of these sizes. */
const CHARACTER = 0.61 * FONT;
const SMALL_CHARACTER = 0.61 * SMALL_FONT;
const PADDING = 10;
const NODE_HEIGHT = 44;
const MARGIN = 20;
const HEADER = 52;
const MIN_WIDTH = 360;
const MAX_TITLE = 100;

const STYLE = `
  svg { --page: #ffffff; --text: #1f2937; --quiet: #4b5563; --edge: #9ca3af; --box: #f9fafb;
    --green: #15803d; --red: #b91c1c; --yellow: #a16207; --cyan: #0e7490; --dim: #6b7280; }
  @media (prefers-color-scheme: dark) {
    svg { --page: #111827; --text: #f3f4f6; --quiet: #d1d5db; --edge: #6b7280; --box: #1f2937;
      --green: #4ade80; --red: #f87171; --yellow: #facc15; --cyan: #22d3ee; --dim: #9ca3af; }
  }
  .page { fill: var(--page); }
  text { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: ${FONT}px; fill: var(--text); }
  .title { font-size: 16px; font-weight: 600; }
  .quiet { font-size: ${SMALL_FONT}px; fill: var(--quiet); }
  .edge { fill: none; stroke: var(--edge); stroke-width: 1.2; }
  .arrow { fill: var(--edge); }
  rect.node { fill: var(--box); stroke-width: 1.6; }
  ${["green", "red", "yellow", "cyan", "dim"].map((color) => `.${color} rect.node { stroke: var(--${color}); }`).join("\n  ")}
  .dim rect.node { stroke-dasharray: 4 3; }
`;

/** `title` and `counts` are shown above the graph. */
export function graphSvg(graph: CollapsedGraph, title: string, counts: string): string {
  const labels = new Map(graph.nodes.map((node) => [node.id, labelOf(node, graph.by, MAX_LABEL)]));
  const placed = layout(graph, (id) => {
    const [name = "", detail = ""] = labels.get(id) ?? [];
    const width = Math.max(lengthOf(name) * CHARACTER, lengthOf(detail) * SMALL_CHARACTER) + 2 * PADDING;
    return { width: Math.ceil(width), height: NODE_HEIGHT };
  });
  const heading = printable(title, MAX_TITLE);
  const width = Math.ceil(
    Math.max(MIN_WIDTH, placed.width, lengthOf(heading) * 10, lengthOf(counts) * SMALL_CHARACTER) +
      2 * MARGIN,
  );
  const height = Math.ceil(placed.height + HEADER + 2 * MARGIN);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img" aria-labelledby="sluice-title sluice-desc">`,
    `<title id="sluice-title">${escaped(heading)}</title>`,
    `<desc id="sluice-desc">${escaped(`The graph of a workflow: ${counts}.`)}</desc>`,
    `<style>${STYLE}</style>`,
    `<rect class="page" width="${width}" height="${height}"/>`,
    `<text class="title" x="${MARGIN}" y="${MARGIN + 14}">${escaped(heading)}</text>`,
    `<text class="quiet" x="${MARGIN}" y="${MARGIN + 34}">${escaped(counts)}</text>`,
    `<defs><marker id="sluice-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path class="arrow" d="M0 0L8 4L0 8z"/></marker></defs>`,
    `<g transform="translate(${MARGIN} ${MARGIN + HEADER})">`,
    ...placed.edges.map(
      (points) => `<path class="edge" marker-end="url(#sluice-arrow)" d="${pathOf(points)}"/>`,
    ),
    ...graph.nodes.flatMap((node) => nodeLines(node, labels.get(node.id) ?? ["", ""], placed)),
    "</g>",
    "</svg>",
    "",
  ].join("\n");
}

function nodeLines(
  { id, name, state }: CollapsedGraph["nodes"][number],
  [title, detail]: readonly [string, string],
  { nodes }: Layout,
): string[] {
  const box = nodes.get(id);
  if (box === undefined) return [];
  const { x, y, width, height } = box;
  return [
    `<g class="${STATE_STYLES[state].color}"><title>${escaped(printable(name, Number.POSITIVE_INFINITY))}: ${escaped(detail)}</title>`,
    `<rect class="node" x="${round(x)}" y="${round(y)}" width="${round(width)}" height="${round(height)}" rx="7"/>`,
    `<text x="${round(x + PADDING)}" y="${round(y + 18)}">${escaped(title)}</text>`,
    `<text class="quiet" x="${round(x + PADDING)}" y="${round(y + 34)}">${escaped(detail)}</text></g>`,
  ];
}

/** A smooth line through the points: the inner ones bend it. */
function pathOf(points: readonly Point[]): string {
  const [first, ...rest] = points;
  const last = rest.pop();
  if (first === undefined || last === undefined) return "";
  const parts = [`M${round(first.x)} ${round(first.y)}`];
  for (const [position, point] of rest.entries()) {
    const next = rest[position + 1] ?? last;
    const end =
      position === rest.length - 1 ? last : { x: (point.x + next.x) / 2, y: (point.y + next.y) / 2 };
    parts.push(`Q${round(point.x)} ${round(point.y)} ${round(end.x)} ${round(end.y)}`);
  }
  if (rest.length === 0) parts.push(`L${round(last.x)} ${round(last.y)}`);
  return parts.join("");
}

function lengthOf(text: string): number {
  return [...text].length;
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}

const ENTITIES: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};

/** Texts come from workflow files. Control characters, which XML forbids, are replaced by `printable`. */
function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (character) => ENTITIES[character] ?? character);
}
