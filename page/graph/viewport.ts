/** The part of the drawing that is in view. */

export interface Size {
  readonly width: number;
  readonly height: number;
}

/** A point (x, y) of the drawing appears at (x * scale + left, y * scale + top). */
export interface Viewport {
  readonly scale: number;
  readonly left: number;
  readonly top: number;
}

const MIN_SCALE = 0.02;
const MAX_SCALE = 2.5;
const MARGIN = 20;

/** Shows the whole drawing, in the middle. */
export function fitWhole(drawing: Size, view: Size): Viewport {
  const scale = Math.min(
    (view.width - 2 * MARGIN) / drawing.width,
    (view.height - 2 * MARGIN) / drawing.height,
    1,
  );
  return {
    scale: Math.max(scale, MIN_SCALE),
    left: (view.width - drawing.width * scale) / 2,
    top: (view.height - drawing.height * scale) / 2,
  };
}

/** Zooms, and keeps the point under (x, y) of the view where it is. */
export function zoom(viewport: Viewport, factor: number, x: number, y: number): Viewport {
  const scale = Math.min(MAX_SCALE, Math.max(MIN_SCALE, viewport.scale * factor));
  const change = scale / viewport.scale;
  return { scale, left: x - (x - viewport.left) * change, top: y - (y - viewport.top) * change };
}

/** Moves the view so that a point of the drawing is in the middle, at a scale at which text can be read. */
export function centerOn(viewport: Viewport, view: Size, x: number, y: number): Viewport {
  const scale = Math.max(viewport.scale, 0.8);
  return { scale, left: view.width / 2 - x * scale, top: view.height / 2 - y * scale };
}
