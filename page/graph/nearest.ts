import { type GraphLayout, NODE_HEIGHT, NODE_WIDTH } from "#page/graph/layout.ts";

/** The node at a point of the drawing. */
export function nodeAt({ x, y }: GraphLayout, pointX: number, pointY: number): number | undefined {
  for (const [node, left] of x.entries()) {
    const top = y[node] ?? 0;
    if (pointX >= left && pointX <= left + NODE_WIDTH && pointY >= top && pointY <= top + NODE_HEIGHT)
      return node;
  }
  return undefined;
}

const DIRECTIONS: Readonly<Record<string, readonly [x: number, y: number]>> = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

/** The nearest node in the direction of an arrow key. Sideways distance counts double. */
export function neighbourOf({ x, y }: GraphLayout, from: number, key: string): number | undefined {
  const direction = DIRECTIONS[key];
  if (direction === undefined) return undefined;
  const [alongX, alongY] = direction;
  let nearest: number | undefined;
  let least = Number.POSITIVE_INFINITY;
  for (const [node, nodeX] of x.entries()) {
    const distanceX = nodeX - (x[from] ?? 0);
    const distanceY = (y[node] ?? 0) - (y[from] ?? 0);
    const along = distanceX * alongX + distanceY * alongY;
    const across = Math.abs(distanceX * alongY) + Math.abs(distanceY * alongX);
    if (along <= 0 || along + 2 * across >= least) continue;
    nearest = node;
    least = along + 2 * across;
  }
  return nearest;
}
