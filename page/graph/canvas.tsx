import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { type Drawing, draw, drawingOf, isPulsing } from "#page/graph/draw.ts";
import { layoutGraph, NODE_HEIGHT, NODE_WIDTH } from "#page/graph/layout.ts";
import { type GraphModel, reachable } from "#page/graph/model.ts";
import { neighbourOf, nodeAt } from "#page/graph/nearest.ts";
import { type GraphTheme, readTheme } from "#page/graph/theme.ts";
import { centerOn, fitWhole, type Size, type Viewport, zoom } from "#page/graph/viewport.ts";
import { Icon } from "#page/icons.tsx";
import { lookOf } from "#page/looks.ts";
import { onThemeChange } from "#page/theme.ts";

interface GraphCanvasProps {
  readonly model: GraphModel;
  /** By position. A new array for each change. */
  readonly states: readonly string[];
  /** The position of the selected node. */
  readonly selected: number | undefined;
  readonly onSelect: (node: number | undefined) => void;
}

/** A pointer that moves further than this drags; otherwise it clicks. */
const CLICK_DISTANCE = 4;
const ZOOM_STEP = 1.3;
/** With more changes at once, rings would hide the graph. */
const MAX_PULSES = 400;

/** The graph: drag and wheel to move and zoom, click or arrow keys and Enter to select a node. */
export function GraphCanvas({ model, states, selected, onSelect }: GraphCanvasProps) {
  const holder = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const view = useSize(holder);
  const [focused, setFocused] = useState<number>();
  const [hovered, setHovered] = useState<{ readonly node: number; readonly x: number; readonly y: number }>();
  const theme = useTheme(holder);
  const isMeasured = view.width > 0;
  // The first size decides: the drawing must not jump when the window changes.
  const drawing = useMemo<Drawing | undefined>(
    () => (isMeasured ? drawingOf(model, layoutGraph(model, view)) : undefined),
    [model, isMeasured],
  );
  const viewport = useRef<Viewport>({ scale: 1, left: 0, top: 0 });
  const changedAt = useChanges(model, states);
  const emphasized = useMemo(
    () =>
      selected === undefined
        ? undefined
        : new Set([
            selected,
            ...reachable(model.upstream, selected),
            ...reachable(model.downstream, selected),
          ]),
    [model, selected],
  );
  const redraw = useRedraw((now) => {
    const context = canvas.current?.getContext("2d");
    if (context == null || drawing === undefined || theme === undefined) return false;
    const scene = { states, viewport: viewport.current, view, selected, focused, emphasized, changedAt, now };
    draw(context, drawing, theme, scene, devicePixelRatio);
    return [...changedAt.values()].some((at) => isPulsing(at, now));
  });
  const move = (next: Viewport): void => {
    viewport.current = next;
    redraw();
  };
  const showWhole = (): void => {
    if (drawing !== undefined) move(fitWhole(drawing.layout, view));
  };
  const zoomBy = (factor: number): void =>
    move(zoom(viewport.current, factor, view.width / 2, view.height / 2));
  const show = (node: number): void => {
    if (drawing === undefined) return;
    const { x, y } = drawing.layout;
    move(centerOn(viewport.current, view, (x[node] ?? 0) + NODE_WIDTH / 2, (y[node] ?? 0) + NODE_HEIGHT / 2));
  };
  useLayoutEffect(showWhole, [drawing]);
  const lastView = useRef(view);
  useLayoutEffect(() => {
    const { width, height } = lastView.current;
    lastView.current = view;
    if (width === 0 || drawing === undefined) return;
    // What was in the middle stays there, when the details open or the window changes.
    const { scale, left, top } = viewport.current;
    move({ scale, left: left + (view.width - width) / 2, top: top + (view.height - height) / 2 });
  }, [view.width, view.height]);
  useLayoutEffect(() => redraw());
  const clicked = useRef<number | undefined>(undefined);
  useEffect(() => {
    // What was clicked is in view already.
    if (selected !== undefined && selected !== clicked.current) show(selected);
    clicked.current = undefined;
    setFocused(selected);
  }, [selected, drawing]);
  const pointers = usePointers({
    onDrag: (x, y) =>
      move({ ...viewport.current, left: viewport.current.left + x, top: viewport.current.top + y }),
    onPinch: (factor, x, y) => move(zoom(viewport.current, factor, x, y)),
    onClick: (x, y) => {
      const node = at(x, y);
      clicked.current = node;
      onSelect(node);
    },
  });
  const at = (x: number, y: number): number | undefined => {
    const { scale, left, top } = viewport.current;
    return drawing && nodeAt(drawing.layout, (x - left) / scale, (y - top) / scale);
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    if (drawing === undefined) return;
    if (event.key === "+" || event.key === "=") zoomBy(ZOOM_STEP);
    else if (event.key === "-") zoomBy(1 / ZOOM_STEP);
    else if (event.key === "0") showWhole();
    else if (event.key === "Escape") onSelect(undefined);
    else if ((event.key === "Enter" || event.key === " ") && focused !== undefined) onSelect(focused);
    else if (event.key.startsWith("Arrow")) {
      const next = focused === undefined ? 0 : (neighbourOf(drawing.layout, focused, event.key) ?? focused);
      setFocused(next);
      show(next);
    } else return;
    event.preventDefault();
  };
  const described = focused === undefined ? undefined : model.nodes[focused];
  return (
    <div class="graph" ref={holder}>
      {/* biome-ignore lint/a11y/noInteractiveElementToNoninteractiveRole: it handles the arrow keys itself. */}
      <canvas
        ref={canvas}
        width={Math.round(view.width * devicePixelRatio)}
        height={Math.round(view.height * devicePixelRatio)}
        tabIndex={0}
        role="application"
        aria-label={`Graph of ${model.name || "the flow"} with ${model.nodes.length} tasks. Arrow keys move between tasks, Enter opens one, plus and minus zoom, 0 shows all. The list view has the same tasks as a table.`}
        onKeyDown={onKeyDown}
        onWheel={(event) => {
          event.preventDefault();
          move(zoom(viewport.current, Math.exp(-event.deltaY * 0.0016), event.offsetX, event.offsetY));
        }}
        onPointerLeave={() => setHovered(undefined)}
        onPointerDown={pointers.onDown}
        onPointerMove={(event) => {
          pointers.onMove(event);
          const node = event.buttons === 0 ? at(event.offsetX, event.offsetY) : undefined;
          if (node !== hovered?.node) {
            setHovered(node === undefined ? undefined : { node, x: event.offsetX, y: event.offsetY });
          }
        }}
        onPointerUp={pointers.onUp}
        onPointerCancel={pointers.onUp}
      />
      <p class="visually-hidden" aria-live="polite">
        {described && focused !== undefined
          ? `${described.name}, ${lookOf(states[focused] ?? "").label}, depends on ${model.upstream[focused]?.length ?? 0}, ${model.downstream[focused]?.length ?? 0} depend on it`
          : ""}
      </p>
      {hovered && (
        <div
          class="graph-hint"
          style={{
            left: `${Math.min(hovered.x + 14, Math.max(8, view.width - 280))}px`,
            top: `${hovered.y + 18}px`,
          }}
        >
          <Icon state={states[hovered.node] ?? ""} /> {model.nodes[hovered.node]?.name}
          <small>{lookOf(states[hovered.node] ?? "").label}</small>
        </div>
      )}
      <fieldset class="graph-zoom" aria-label="Zoom">
        <button type="button" onClick={() => zoomBy(ZOOM_STEP)} aria-label="Zoom in" title="Zoom in (+)">
          +
        </button>
        <button
          type="button"
          onClick={() => zoomBy(1 / ZOOM_STEP)}
          aria-label="Zoom out"
          title="Zoom out (-)"
        >
          −
        </button>
        <button type="button" onClick={showWhole} aria-label="Show the whole graph" title="Show all (0)">
          ⤢
        </button>
      </fieldset>
    </div>
  );
}

function useSize(element: { readonly current: HTMLElement | null }): Size {
  const [size, setSize] = useState<Size>({ width: 0, height: 0 });
  useLayoutEffect(() => {
    if (element.current === null) return undefined;
    const observer = new ResizeObserver(([entry]) => {
      if (entry !== undefined) setSize({ width: entry.contentRect.width, height: entry.contentRect.height });
    });
    observer.observe(element.current);
    return () => observer.disconnect();
  }, []);
  return size;
}

function useTheme(element: { readonly current: HTMLElement | null }): GraphTheme | undefined {
  const [theme, setTheme] = useState<GraphTheme>();
  useEffect(() => {
    const read = (): void => {
      if (element.current !== null) setTheme(readTheme(element.current));
    };
    read();
    return onThemeChange(read);
  }, []);
  return theme;
}

/** When the state of each node last changed. */
function useChanges(model: GraphModel, states: readonly string[]): ReadonlyMap<number, number> {
  const last = useRef<{ model: GraphModel; states: readonly string[] } | undefined>(undefined);
  const changes = useRef(new Map<number, number>());
  if (last.current?.states !== states) {
    const now = performance.now();
    for (const [node, at] of changes.current) if (!isPulsing(at, now)) changes.current.delete(node);
    const isSame = last.current?.model === model;
    const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (isSame && !isStill) {
      const changed = [...states.keys()].filter((node) => states[node] !== last.current?.states[node]);
      for (const node of changed.slice(0, MAX_PULSES)) changes.current.set(node, now);
    }
    last.current = { model, states };
  }
  return changes.current;
}

/** Draws once in the next frame, and goes on while `drawFrame` returns true. */
function useRedraw(drawFrame: (now: number) => boolean): () => void {
  const latest = useRef(drawFrame);
  latest.current = drawFrame;
  const frame = useRef<number | undefined>(undefined);
  const run = useRef(() => {
    frame.current ??= requestAnimationFrame(() => {
      frame.current = undefined;
      if (latest.current(performance.now())) run.current();
    });
  });
  useEffect(
    () => () => {
      if (frame.current !== undefined) cancelAnimationFrame(frame.current);
    },
    [],
  );
  return run.current;
}

interface Gestures {
  readonly onDrag: (x: number, y: number) => void;
  readonly onPinch: (factor: number, x: number, y: number) => void;
  readonly onClick: (x: number, y: number) => void;
}

/** Tells clicks, drags and pinches apart. */
function usePointers(gestures: Gestures) {
  const latest = useRef(gestures);
  latest.current = gestures;
  const pointers = useRef(new Map<number, { x: number; y: number }>());
  const travelled = useRef(0);
  return {
    onDown: (event: PointerEvent) => {
      if (event.currentTarget instanceof Element) event.currentTarget.setPointerCapture(event.pointerId);
      if (pointers.current.size === 0) travelled.current = 0;
      pointers.current.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    },
    onMove: (event: PointerEvent) => {
      const last = pointers.current.get(event.pointerId);
      if (last === undefined) return;
      const now = { x: event.offsetX, y: event.offsetY };
      const other = [...pointers.current].find(([id]) => id !== event.pointerId)?.[1];
      pointers.current.set(event.pointerId, now);
      travelled.current += Math.hypot(now.x - last.x, now.y - last.y);
      if (other !== undefined) {
        const factor =
          Math.hypot(now.x - other.x, now.y - other.y) / Math.hypot(last.x - other.x, last.y - other.y);
        if (Number.isFinite(factor))
          latest.current.onPinch(factor, (now.x + other.x) / 2, (now.y + other.y) / 2);
      } else if (travelled.current > CLICK_DISTANCE) {
        latest.current.onDrag(now.x - last.x, now.y - last.y);
      }
    },
    onUp: (event: PointerEvent) => {
      if (!pointers.current.delete(event.pointerId) || pointers.current.size > 0) return;
      if (event.type === "pointerup" && travelled.current <= CLICK_DISTANCE) {
        latest.current.onClick(event.offsetX, event.offsetY);
      }
    },
  };
}
