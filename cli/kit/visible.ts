import { styleText } from "node:util";

/** What `Style` writes. Other sequences come from a name or a reason. */
const STYLES = (["bold", "dim", "red", "green", "yellow", "cyan"] as const).flatMap((name) =>
  styleText(name, "|", { validateStream: false }).split("|"),
);
const STYLE = [...new Set(STYLES)].map((sequence) => sequence.replace("[", String.raw`\[`)).join("|");
/** Controls of a terminal, line breaks included, and characters that change the direction of the text after them. */
const CONTROL = String.raw`[\p{Cc}\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]`;
const STYLE_OR_CONTROL = new RegExp(`${STYLE}|${CONTROL}`, "gu");

/**
 * Replaces what a terminal would obey in a line by question marks. Names, reasons and messages may hold any character: with
 * these, a workflow could hide or forge lines of an answer, or change the title of the window.
 */
export function visibleLine(line: string): string {
  return line.replace(STYLE_OR_CONTROL, (found) => (found.length > 1 ? found : "?"));
}

/** JSON whose strings hold none of these characters, with the same value. `JSON.stringify` escapes only some of them. */
export function visibleJson(value: unknown): string {
  return JSON.stringify(value).replace(
    new RegExp(CONTROL, "gu"),
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
