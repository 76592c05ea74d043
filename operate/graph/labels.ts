import type { CollapsedGraph, CollapsedNode } from "#operate/graph/collapse.ts";
import { STATE_STYLES } from "#operate/graph/states.ts";
import { printable } from "#operate/graph/text.ts";

/** Two lines of a drawn node: the symbol of its state and its name or names, then state and kind. */
export function labelOf(
  { name, members, state, kind }: CollapsedNode,
  by: CollapsedGraph["by"],
  length: number,
): readonly [title: string, detail: string] {
  const others = members.length - 1;
  const suffix =
    others === 0
      ? ""
      : ` + ${others.toLocaleString("en-US")} ${by === "layers" || by === "bands" ? "more" : "alike"}`;
  const { symbol, label } = STATE_STYLES[state];
  const title = `${symbol} ${printable(name, length - suffix.length)}${suffix}`;
  return [
    title,
    kind === "" || kind === "task" || by === "bands" ? label : `${label}, ${printable(kind, length)}`,
  ];
}
