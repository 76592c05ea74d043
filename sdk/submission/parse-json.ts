export type ParsedJson =
  | { readonly ok: true; readonly value: unknown }
  /** `position` is like `line 3, column 14`. Both count from 1, columns in UTF-16 code units. */
  | { readonly ok: false; readonly position: string; readonly message: string };

const WHITESPACE = new Set([" ", "\t", "\n", "\r"]);
const SCALAR = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null/y;
const ESCAPE = /\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})/y;

type Expected = "value" | "value or ]" | "name" | "name or }" | ":" | ", or the end" | "end";

/** Parses JSON text, with or without a byte order mark. An error names the position and what was expected there. */
export function parseJson(text: string): ParsedJson {
  const json = text.startsWith("\ufeff") ? text.slice(1) : text;
  try {
    return { ok: true, value: JSON.parse(json) };
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    // V8's own message names a position for some errors only.
    const { at, expected } = firstError(json);
    const before = json.slice(0, at);
    const line = before.split("\n").length;
    const column = at - before.lastIndexOf("\n");
    const found = at >= json.length ? "the end of the text" : JSON.stringify(json[at]);
    return {
      ok: false,
      position: `line ${line}, column ${column}`,
      message: `invalid JSON: expected ${expected}, found ${found}`,
    };
  }
}

/** Reads tokens up to the first invalid one. Iterative, because users can nest values to any depth. */
function firstError(text: string): { readonly at: number; readonly expected: string } {
  const open: ("{" | "[")[] = [];
  let expected: Expected = "value";
  let at = 0;
  const afterValue = (): Expected => (open.length === 0 ? "end" : ", or the end");
  for (;;) {
    while (WHITESPACE.has(text[at] ?? "")) at += 1;
    const character = text[at];
    const expectsValue: boolean = expected === "value" || expected === "value or ]";
    const expectsName: boolean = expected === "name" || expected === "name or }";
    if (character === undefined) break;
    if (character === '"' && (expectsValue || expectsName)) {
      const string = stringEnd(text, at);
      if (!string.closed) return { at: string.end, expected: "the rest of a string" };
      at = string.end;
      expected = expectsName ? ":" : afterValue();
    } else if (expectsValue && (character === "{" || character === "[")) {
      open.push(character);
      expected = character === "{" ? "name or }" : "value or ]";
      at += 1;
    } else if (closes(character, open.at(-1), expected)) {
      open.pop();
      expected = afterValue();
      at += 1;
    } else if (character === ":" && expected === ":") {
      expected = "value";
      at += 1;
    } else if (character === "," && expected === ", or the end") {
      expected = open.at(-1) === "{" ? "name" : "value";
      at += 1;
    } else if (expectsValue) {
      SCALAR.lastIndex = at;
      const scalar = SCALAR.exec(text);
      if (scalar === null) break;
      at += scalar[0].length;
      expected = afterValue();
    } else break;
  }
  return { at, expected: describe(expected, open.at(-1)) };
}

function closes(character: string, open: "{" | "[" | undefined, expected: Expected): boolean {
  if (character === "}") return open === "{" && (expected === "name or }" || expected === ", or the end");
  return character === "]" && open === "[" && (expected === "value or ]" || expected === ", or the end");
}

function stringEnd(text: string, start: number): { readonly end: number; readonly closed: boolean } {
  let at = start + 1;
  for (;;) {
    const character = text[at];
    if (character === undefined || character < " ") return { end: at, closed: false };
    if (character === '"') return { end: at + 1, closed: true };
    if (character === "\\") {
      ESCAPE.lastIndex = at;
      const sequence = ESCAPE.exec(text);
      if (sequence === null) return { end: at, closed: false };
      at += sequence[0].length;
    } else at += 1;
  }
}

function describe(expected: Expected, open: "{" | "[" | undefined): string {
  switch (expected) {
    case "value":
      return "a value";
    case "value or ]":
      return 'a value or "]"';
    case "name":
      return "a property name in double quotes";
    case "name or }":
      return 'a property name in double quotes or "}"';
    case ":":
      return '":"';
    case "end":
      return "the end of the text";
    case ", or the end":
      return open === "{" ? '"," or "}"' : '"," or "]"';
  }
}
