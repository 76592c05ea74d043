/**
 * Places nodes in layers: each one behind everything that it depends on. A layer with many nodes has several rows, so that a
 * fan-out of a thousand stays in view. Takes milliseconds for thousands of nodes, which layout libraries do not.
 */

import type { GraphModel } from "#page/graph/model.ts";

export const NODE_WIDTH = 172;
export const NODE_HEIGHT = 30;

export interface GraphLayout {
  /** Layers follow each other downwards, or to the right. */
  readonly direction: "down" | "right";
  readonly width: number;
  readonly height: number;
  /** The upper left corner of each node. */
  readonly x: Float64Array;
  readonly y: Float64Array;
}

interface Spacing {
  /** Between rows of one layer, and between nodes of one row. */
  readonly row: number;
  readonly node: number;
  readonly layer: number;
}

const SPACING: Readonly<Record<GraphLayout["direction"], Spacing>> = {
  down: { row: 8, node: 14, layer: 46 },
  right: { row: 12, node: 10, layer: 64 },
};
const SWEEPS = 6;
/** Nodes in a row at most, the longest first: long rows show the layers best. */
const ROW_LENGTHS = [Number.POSITIVE_INFINITY, 96, 64, 48, 32, 24, 16, 12, 8, 6, 4];
/** Larger than this, a drawing needs no more room. */
const MAX_SCALE = 1;
/** At this scale, labels can be read: rows are not split any further, because that hides edges behind nodes. */
const READABLE_SCALE = 0.55;
/** By how much a drawing must become larger before rows are split further. */
const GAIN = 1.1;

/** Chooses direction and length of rows so that the drawing is as large as possible in the viewport. */
export function layoutGraph(
  graph: Pick<GraphModel, "upstream" | "downstream">,
  viewport: { readonly width: number; readonly height: number },
): GraphLayout {
  const layers = ordered(layersOf(graph), graph);
  let best = place(layers, "down", Number.POSITIVE_INFINITY);
  let bestScale = 0;
  for (const length of ROW_LENGTHS) {
    if (bestScale >= READABLE_SCALE) break;
    for (const direction of ["down", "right"] as const) {
      const layout = place(layers, direction, length);
      const scale = Math.min(viewport.width / layout.width, viewport.height / layout.height, MAX_SCALE);
      if (scale <= bestScale * GAIN) continue;
      best = layout;
      bestScale = scale;
    }
  }
  return best;
}

/** The nodes of each layer. */
function layersOf({ upstream, downstream }: Pick<GraphModel, "upstream" | "downstream">): number[][] {
  const ranks = new Int32Array(upstream.length);
  const open = upstream.map(({ length }) => length);
  const order = open.flatMap((count, node) => (count === 0 ? [node] : []));
  for (const node of order) {
    for (const next of downstream[node] ?? []) {
      ranks[next] = Math.max(ranks[next] ?? 0, (ranks[node] ?? 0) + 1);
      open[next] = (open[next] ?? 0) - 1;
      if (open[next] === 0) order.push(next);
    }
  }
  // A root that is needed late stands next to what needs it, which keeps its edges short.
  for (const [node, sources] of upstream.entries()) {
    const targets = downstream[node] ?? [];
    if (sources.length > 0 || targets.length === 0) continue;
    ranks[node] = Math.min(...targets.map((target) => ranks[target] ?? 0)) - 1;
  }
  const layers: number[][] = [];
  for (const [node, rank] of ranks.entries()) {
    layers[rank] ??= [];
    layers[rank].push(node);
  }
  return [...layers].map((layer) => layer ?? []).filter(({ length }) => length > 0);
}

/** Orders each layer by the average place of the neighbours, in turns from above and from below: fewer edges cross. */
function ordered(
  layers: number[][],
  { upstream, downstream }: Pick<GraphModel, "upstream" | "downstream">,
): number[][] {
  const places = new Float64Array(upstream.length);
  const note = (layer: readonly number[]): void => {
    for (const [index, node] of layer.entries()) places[node] = (index + 0.5) / layer.length;
  };
  for (const layer of layers) note(layer);
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    const isDownwards = sweep % 2 === 0;
    const edges = isDownwards ? upstream : downstream;
    for (const layer of isDownwards ? layers : [...layers].reverse()) {
      const wanted = new Map(
        layer.map((node) => [node, average(edges[node] ?? [], places) ?? places[node] ?? 0]),
      );
      layer.sort((one, other) => (wanted.get(one) ?? 0) - (wanted.get(other) ?? 0) || one - other);
      note(layer);
    }
  }
  return layers;
}

function average(nodes: readonly number[], places: Float64Array): number | undefined {
  if (nodes.length === 0) return undefined;
  return nodes.reduce((sum, node) => sum + (places[node] ?? 0), 0) / nodes.length;
}

function place(
  layers: readonly (readonly number[])[],
  direction: GraphLayout["direction"],
  rowLength: number,
): GraphLayout {
  const { row, node: gap, layer: layerGap } = SPACING[direction];
  const isDown = direction === "down";
  // Along: in the direction of the layers. Across: within a row.
  const [along, across] = isDown ? [NODE_HEIGHT, NODE_WIDTH] : [NODE_WIDTH, NODE_HEIGHT];
  const count = layers.reduce((sum, { length }) => sum + length, 0);
  const alongAt = new Float64Array(count);
  const acrossAt = new Float64Array(count);
  const widest = Math.max(1, ...layers.map(({ length }) => Math.min(length, rowLength)));
  const breadth = widest * (across + gap) - gap;
  let position = 0;
  for (const layer of layers) {
    const rows = Math.max(1, Math.ceil(layer.length / rowLength));
    const perRow = Math.ceil(layer.length / rows);
    for (const [index, node] of layer.entries()) {
      const rowIndex = Math.floor(index / perRow);
      const inRow = Math.min(perRow, layer.length - rowIndex * perRow);
      const start = (breadth - (inRow * (across + gap) - gap)) / 2;
      acrossAt[node] = start + (index % perRow) * (across + gap);
      alongAt[node] = position + rowIndex * (along + row);
    }
    position += rows * (along + row) - row + layerGap;
  }
  const length = Math.max(along, position - layerGap);
  return {
    direction,
    width: isDown ? breadth : length,
    height: isDown ? length : breadth,
    x: isDown ? acrossAt : alongAt,
    y: isDown ? alongAt : acrossAt,
  };
}
