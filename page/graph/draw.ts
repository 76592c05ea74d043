/** Draws a graph on a canvas. Only what is in view is drawn node by node; edges are one path each, which is built once. */

import { type State, stateOf } from "#operate/graph/states.ts";
import { type GraphLayout, NODE_HEIGHT, NODE_WIDTH } from "#page/graph/layout.ts";
import type { GraphModel } from "#page/graph/model.ts";
import type { GraphTheme } from "#page/graph/theme.ts";
import type { Size, Viewport } from "#page/graph/viewport.ts";
import { LOOKS } from "#page/looks.ts";

/** Below this scale, text cannot be read, and nodes are plain boxes with the icon of their state. */
const TEXT_SCALE = 0.42;
/** Below this scale, icons cannot be recognized. */
const ICON_SCALE = 0.13;
const RADIUS = 6;
const ICON_SIZE = 16;
const TEXT_SIZE = 12;
/** Text becomes larger in the drawing where it would be smaller than this on the screen, as long as it fits into a box. */
const MIN_TEXT_ON_SCREEN = 9.5;
const MAX_TEXT_SIZE = 20;
/** The width of a character, as a part of the text size. */
const CHARACTER = 0.58;
const PULSE_MS = 900;
const LONG_EDGE = { down: 250, right: 700 };
const LONG_EDGE_ALPHA = 0.4;
const DIMMED_EDGE_ALPHA = 0.35;

export interface Drawing {
  readonly model: GraphModel;
  readonly layout: GraphLayout;
  readonly edges: Path2D;
  /** Edges that pass other layers. They are drawn faintly, because they would hide the others. */
  readonly longEdges: Path2D;
}

/** What is drawn, apart from the graph itself. */
export interface Scene {
  readonly states: readonly string[];
  readonly viewport: Viewport;
  readonly view: Size;
  readonly selected: number | undefined;
  readonly focused: number | undefined;
  /** Nodes and edges that are shown strongly; all others are dimmed. Undefined: nothing is dimmed. */
  readonly emphasized: ReadonlySet<number> | undefined;
  /** When the state of nodes has changed, by `performance.now()`. */
  readonly changedAt: ReadonlyMap<number, number>;
  readonly now: number;
}

export function drawingOf(model: GraphModel, layout: GraphLayout): Drawing {
  const edges = new Path2D();
  const longEdges = new Path2D();
  const along = layout.direction === "down" ? layout.y : layout.x;
  for (const [from, targets] of model.downstream.entries()) {
    for (const to of targets) {
      const isLong = (along[to] ?? 0) - (along[from] ?? 0) > LONG_EDGE[layout.direction];
      addEdge(isLong ? longEdges : edges, layout, from, to);
    }
  }
  return { model, layout, edges, longEdges };
}

function addEdge(path: Path2D, { x, y, direction }: GraphLayout, from: number, to: number): void {
  const [fromX = 0, fromY = 0, toX = 0, toY = 0] = [x[from], y[from], x[to], y[to]];
  if (direction === "down") {
    const [startX, startY, endX] = [fromX + NODE_WIDTH / 2, fromY + NODE_HEIGHT, toX + NODE_WIDTH / 2];
    const bend = Math.min(60, (toY - startY) / 2);
    path.moveTo(startX, startY);
    path.bezierCurveTo(startX, startY + bend, endX, toY - bend, endX, toY);
    return;
  }
  const [startX, startY, endY] = [fromX + NODE_WIDTH, fromY + NODE_HEIGHT / 2, toY + NODE_HEIGHT / 2];
  const bend = Math.min(70, (toX - startX) / 2);
  path.moveTo(startX, startY);
  path.bezierCurveTo(startX + bend, startY, toX - bend, endY, toX, endY);
}

const iconPaths = new Map<State, Path2D>();

function iconOf(state: State): Path2D {
  let path = iconPaths.get(state);
  if (path === undefined) {
    path = new Path2D(LOOKS[state].icon);
    iconPaths.set(state, path);
  }
  return path;
}

/** Draws the scene. `ratio` is the number of device pixels per CSS pixel. */
export function draw(
  context: CanvasRenderingContext2D,
  { model, layout, edges, longEdges }: Drawing,
  theme: GraphTheme,
  scene: Scene,
  ratio: number,
): void {
  const { viewport, view, emphasized } = scene;
  const { scale, left, top } = viewport;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.fillStyle = theme.background;
  context.fillRect(0, 0, view.width, view.height);
  context.setTransform(ratio * scale, 0, 0, ratio * scale, ratio * left, ratio * top);
  context.lineWidth = Math.max(1, 0.7 / scale);
  context.strokeStyle = theme.edge;
  const strength = emphasized === undefined ? 1 : DIMMED_EDGE_ALPHA;
  context.globalAlpha = strength;
  context.stroke(edges);
  context.globalAlpha = strength * LONG_EDGE_ALPHA;
  context.stroke(longEdges);
  if (emphasized !== undefined) drawEmphasizedEdges(context, model, layout, theme, emphasized, scale);
  const shown = visible(layout, viewport, view);
  drawBoxes(context, layout, theme, scene, shown);
  if (scale >= ICON_SCALE) drawIcons(context, layout, theme, scene, shown);
  if (scale >= TEXT_SCALE) drawLabels(context, model, layout, theme, scene, shown);
  drawRings(context, layout, theme, scene);
  context.globalAlpha = 1;
}

/** Whether a node still shows that its state has changed. */
export function isPulsing(changedAt: number, now: number): boolean {
  return now - changedAt < PULSE_MS;
}

function visible({ x, y }: GraphLayout, { scale, left, top }: Viewport, view: Size): number[] {
  const [minX, minY] = [-left / scale - NODE_WIDTH, -top / scale - NODE_HEIGHT];
  const [maxX, maxY] = [(view.width - left) / scale, (view.height - top) / scale];
  const nodes: number[] = [];
  for (const [node, nodeX] of x.entries()) {
    const nodeY = y[node] ?? 0;
    if (nodeX >= minX && nodeX <= maxX && nodeY >= minY && nodeY <= maxY) nodes.push(node);
  }
  return nodes;
}

function drawEmphasizedEdges(
  context: CanvasRenderingContext2D,
  { downstream }: GraphModel,
  layout: GraphLayout,
  theme: GraphTheme,
  emphasized: ReadonlySet<number>,
  scale: number,
): void {
  const path = new Path2D();
  for (const from of emphasized) {
    for (const to of downstream[from] ?? []) if (emphasized.has(to)) addEdge(path, layout, from, to);
  }
  context.globalAlpha = 0.9;
  context.lineWidth = Math.max(1.6, 1.2 / scale);
  context.strokeStyle = theme.accent;
  context.stroke(path);
}

function drawBoxes(
  context: CanvasRenderingContext2D,
  { x, y }: GraphLayout,
  theme: GraphTheme,
  { states, emphasized, viewport: { scale } }: Scene,
  nodes: readonly number[],
): void {
  const isPlain = scale < ICON_SCALE;
  const radius = isPlain ? 4 : RADIUS;
  // One path for each state and strength: setting a style for every node is slow.
  const groups = Map.groupBy(
    nodes,
    (node) => `${stateOf(states[node] ?? "")} ${strengthOf(node, emphasized)}`,
  );
  for (const [key, members] of groups) {
    const [state = "missing", strength] = key.split(" ") as [State, string];
    const { strong, fill } = theme.states[state];
    const path = new Path2D();
    for (const node of members) path.roundRect(x[node] ?? 0, y[node] ?? 0, NODE_WIDTH, NODE_HEIGHT, radius);
    context.globalAlpha = Number(strength);
    // Most nodes of a large graph are blocked: they must not be what one sees first.
    context.fillStyle = isPlain && state !== "waiting_children" ? strong : fill;
    context.fill(path);
    context.lineWidth = Math.max(1.2, 0.8 / scale);
    context.strokeStyle = strong;
    context.setLineDash(state === "waiting_children" || state === "skipped" ? [5, 3] : []);
    context.stroke(path);
    context.setLineDash([]);
  }
}

const DIMMED = 0.3;

function strengthOf(node: number, emphasized: ReadonlySet<number> | undefined): number {
  return emphasized === undefined || emphasized.has(node) ? 1 : DIMMED;
}

function drawIcons(
  context: CanvasRenderingContext2D,
  { x, y }: GraphLayout,
  theme: GraphTheme,
  { states, emphasized, viewport: { scale } }: Scene,
  nodes: readonly number[],
): void {
  const hasText = scale >= TEXT_SCALE;
  // Without text, the icon may be as large as the box.
  const size = hasText ? textSizeAt(scale) / TEXT_SIZE : 1.8;
  const groups = Map.groupBy(
    nodes,
    (node) => `${stateOf(states[node] ?? "")} ${strengthOf(node, emphasized)}`,
  );
  context.lineCap = "round";
  context.lineJoin = "round";
  context.lineWidth = (hasText ? 1.9 : 2.4) * size;
  for (const [key, members] of groups) {
    const [state = "missing", strength] = key.split(" ") as [State, string];
    const icon = iconOf(state);
    const path = new Path2D();
    for (const node of members) {
      const centerX = (x[node] ?? 0) + (hasText ? 6 + 10 * size : NODE_WIDTH / 2);
      const centerY = (y[node] ?? 0) + NODE_HEIGHT / 2;
      const half = (ICON_SIZE / 2) * size;
      path.addPath(icon, new DOMMatrix([size, 0, 0, size, centerX - half, centerY - half]));
    }
    context.globalAlpha = Number(strength);
    context.strokeStyle = theme.states[state].strong;
    context.stroke(path);
  }
}

function drawLabels(
  context: CanvasRenderingContext2D,
  { nodes: all }: GraphModel,
  { x, y }: GraphLayout,
  theme: GraphTheme,
  { emphasized, viewport: { scale } }: Scene,
  nodes: readonly number[],
): void {
  const size = textSizeAt(scale);
  const left = 8 + (20 * size) / TEXT_SIZE;
  const width = NODE_WIDTH - left - 6;
  const length = Math.floor(width / (size * CHARACTER));
  context.font = `500 ${size}px ${theme.font}`;
  context.textBaseline = "middle";
  context.fillStyle = theme.text;
  for (const node of nodes) {
    context.globalAlpha = strengthOf(node, emphasized);
    const text = labelOf(all[node]?.short ?? "", length);
    context.fillText(text, (x[node] ?? 0) + left, (y[node] ?? 0) + NODE_HEIGHT / 2 + 0.5, width);
  }
}

function textSizeAt(scale: number): number {
  return Math.min(MAX_TEXT_SIZE, Math.max(TEXT_SIZE, MIN_TEXT_ON_SCREEN / scale));
}

/** Cut at the beginning: names of tasks differ at their end. */
function labelOf(name: string, length: number): string {
  return name.length <= length ? name : `…${name.slice(1 - length)}`;
}

/** Rings around the selected node, the focused node, and nodes whose state has just changed. */
function drawRings(
  context: CanvasRenderingContext2D,
  { x, y }: GraphLayout,
  theme: GraphTheme,
  { selected, focused, changedAt, now, states, viewport: { scale } }: Scene,
): void {
  const ring = (node: number, distance: number, width: number, color: string, alpha: number): void => {
    context.globalAlpha = alpha;
    context.lineWidth = Math.max(width, width / scale / 2);
    context.strokeStyle = color;
    context.beginPath();
    context.roundRect(
      (x[node] ?? 0) - distance,
      (y[node] ?? 0) - distance,
      NODE_WIDTH + 2 * distance,
      NODE_HEIGHT + 2 * distance,
      RADIUS + distance,
    );
    context.stroke();
  };
  for (const [node, at] of changedAt) {
    const share = (now - at) / PULSE_MS;
    if (share >= 1) continue;
    ring(node, 2 + 8 * share, 3, theme.states[stateOf(states[node] ?? "")].strong, 1 - share);
  }
  if (focused !== undefined && focused !== selected) {
    context.setLineDash([4, 3]);
    ring(focused, 4, 2, theme.accent, 1);
    context.setLineDash([]);
  }
  if (selected !== undefined) ring(selected, 3, 3, theme.accent, 1);
}
