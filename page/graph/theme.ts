/** The colors of the style sheet, for a canvas. */

import type { State } from "#operate/graph/states.ts";
import { LOOKS } from "#page/looks.ts";

export interface NodeColors {
  readonly strong: string;
  readonly fill: string;
}

export interface GraphTheme {
  readonly states: Readonly<Record<State, NodeColors>>;
  readonly background: string;
  readonly text: string;
  readonly edge: string;
  readonly accent: string;
  readonly font: string;
}

/** A canvas does not resolve custom properties: the browser computes each color on an element. */
export function readTheme(element: HTMLElement): GraphTheme {
  const probe = document.createElement("span");
  probe.hidden = true;
  element.append(probe);
  const color = (value: string): string => {
    probe.style.color = value;
    return getComputedStyle(probe).color;
  };
  const states = Object.fromEntries(
    Object.entries(LOOKS).map(([state, { color: name }]) => [
      state,
      { strong: color(`var(${name})`), fill: color(`color-mix(in srgb, var(${name}) 16%, var(--surface))`) },
    ]),
  ) as Record<State, NodeColors>;
  const theme = {
    states,
    background: color("var(--canvas)"),
    text: color("var(--text)"),
    edge: color("var(--edge)"),
    accent: color("var(--accent)"),
    font: getComputedStyle(element).fontFamily,
  };
  probe.remove();
  return theme;
}
