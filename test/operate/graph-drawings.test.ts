import { describe, expect, test } from "vitest";
import { collapse } from "#operate/graph/collapse.ts";
import type { FlowGraph } from "#operate/graph/flow-graph.ts";
import { graphMermaid } from "#operate/graph/mermaid.ts";
import { STATE_STYLES } from "#operate/graph/states.ts";
import { graphSvg } from "#operate/graph/svg.ts";
import { PUBLIC_STATES } from "#shared/contract/record.ts";
import { graphOf } from "#test/operate/graphs.ts";

/** Task ids can hold anything that JSON can. Each of these ends a label, or means something else, in one of the formats. */
const HOSTILE = [
  '"]; click n0 "javascript:alert(1)"',
  "</title></text><script>alert(1)</script>",
  "style: #35; classDef x:#f00;",
  "%%{init: {}}%%",
  "`**markdown**`",
  "a\u0000\u001b[31m\nb",
  "\ud800 & 'single' -->",
  "end",
];

/** A chain, because alike executions would become one node. */
const hostile = (): FlowGraph =>
  graphOf(Object.fromEntries(HOSTILE.map((name, at) => [name, HOSTILE.slice(Math.max(0, at - 1), at)])));
const mermaid = (graph: FlowGraph): string[] => graphMermaid(collapse(graph), graph.name);
const svg = (graph: FlowGraph): string => graphSvg(collapse(graph), graph.name, "3 completed");

describe("a graph as a Mermaid flowchart", () => {
  test("has each node with symbol, name and state, each edge, and a class for each color", () => {
    const graph = graphOf(
      { fetch: [], publish: ["fetch"], alert: ["fetch"] },
      { publish: "waiting_children", alert: "failed" },
    );
    expect(mermaid(graph)).toEqual([
      "---",
      'title: "example"',
      "---",
      "flowchart LR",
      '  n0["✓ fetch<br>completed"]',
      '  n1["… publish<br>waiting for dependencies"]',
      '  n2["✗ alert<br>failed"]',
      "  n0 --> n1",
      "  n0 --> n2",
      "  classDef green fill:#dcfce7,stroke:#15803d,color:#14532d",
      "  class n0 green",
      "  classDef dim fill:#f3f4f6,stroke:#6b7280,color:#374151",
      "  class n1 dim",
      "  classDef red fill:#fee2e2,stroke:#b91c1c,color:#7f1d1d",
      "  class n2 red",
    ]);
  });

  test("writes everything in a label that could have a meaning by its code point", () => {
    const labels = mermaid(hostile()).filter((line) => line.includes("["));
    expect(labels).toHaveLength(HOSTILE.length);
    for (const line of labels) {
      // The grammar: an id, and a quoted label of letters, digits, harmless punctuation and code points.
      expect(line).toMatch(/^ {2}n\d+\["(?:[\p{L}\p{N} _.,+/()✓✗▶…?-]|#\d+;)+<br>completed"\]$/u);
    }
  });

  test("quotes the title", () => {
    const title = 'a "b"\n---\nflowchart';
    expect(graphMermaid(collapse(hostile()), title).slice(0, 4)).toEqual([
      "---",
      `title: ${JSON.stringify(title)}`,
      "---",
      "flowchart LR",
    ]);
  });
});

describe("a graph as an SVG image", () => {
  test("has a title, a description, both themes, and refers to nothing outside", () => {
    const image = svg(graphOf({ a: [], b: ["a"] }));
    expect(image).toMatch(
      /^<svg xmlns="http:\/\/www.w3.org\/2000\/svg" width="\d+" height="\d+" viewBox="0 0 \d+ \d+" role="img"/,
    );
    expect(image).toContain('<title id="sluice-title">example</title>');
    expect(image).toContain('<desc id="sluice-desc">The graph of a workflow: 3 completed.</desc>');
    expect(image).toContain("@media (prefers-color-scheme: dark)");
    expect(image.replace('xmlns="http://www.w3.org/2000/svg"', "")).not.toMatch(
      /https?:|href=|@import|url\((?!#)/,
    );
    expect(image.match(/<path class="edge"/g)).toHaveLength(1);
  });

  test("is well-formed for any task id", () => {
    const image = svg(hostile());
    expect(textsOf(image)).toEqual(
      expect.arrayContaining([
        "✓ end",
        "✓ a??[31m?b",
        "✓ ? & 'single' -->",
        "✓ %%{init: {}}%%",
        "✓ `**markdown**`",
      ]),
    );
    // biome-ignore lint/suspicious/noControlCharactersInRegex: XML forbids these characters.
    expect(image).not.toMatch(/[\u0000-\u0008\u000b-\u001f\ufffe\uffff]|[\ud800-\udbff](?![\udc00-\udfff])/);
    expect(image).not.toContain("<script");
  });

  test("every state has a symbol, a word and a color of both themes", () => {
    const graph = graphOf(
      Object.fromEntries(PUBLIC_STATES.map((state) => [`t ${state}`, []])),
      Object.fromEntries(PUBLIC_STATES.map((state) => [`t ${state}`, state])),
    );
    const texts = textsOf(svg(graph));
    for (const state of PUBLIC_STATES) {
      const { symbol, label, color } = STATE_STYLES[state];
      expect(texts).toContain(`${symbol} t ${state}`);
      expect(texts).toContain(label);
      expect(svg(graph).match(new RegExp(`--${color}: #`, "g"))).toHaveLength(2);
    }
  });

  test("a collapsed node says how many it stands for", () => {
    const graph = graphOf({
      top: [],
      ...Object.fromEntries(Array.from({ length: 2_000 }, (_, n) => [`t${n}`, ["top"]])),
    });
    expect(textsOf(svg(graph))).toContain("✓ t0 + 1,999 alike");
  });
});

const OPEN = /^<([a-z]+)((?: [a-zA-Z:-]+="[^"<]*")*)(\/?)>/;

/** The contents of all text elements. Throws unless the image is well-formed. */
function textsOf(image: string): string[] {
  const texts: string[] = [];
  const open: string[] = [];
  for (let rest = image.trimEnd(); rest !== ""; ) {
    const [tag, name = "", , isEmpty] = OPEN.exec(rest) ?? [];
    const [end, ended] = /^<\/([a-z]+)>/.exec(rest) ?? [];
    const [text] = /^(?:[^<&]|&(?:amp|lt|gt|quot|#39);)+/.exec(rest) ?? [];
    if (tag !== undefined) {
      if (isEmpty !== "/") open.push(name);
    } else if (end !== undefined) {
      if (open.pop() !== ended) throw new SyntaxError(`</${ended}> closes nothing`);
    } else if (text === undefined) {
      throw new SyntaxError(`not well-formed: ${rest.slice(0, 60)}`);
    } else if (open.at(-1) === "text") {
      texts.push(unescaped(text));
    }
    rest = rest.slice((tag ?? end ?? text ?? "").length);
  }
  if (open.length > 0) throw new SyntaxError(`${open.join(", ")} is not closed`);
  return texts;
}

function unescaped(text: string): string {
  return text
    .replaceAll("&lt;", "<")
    .replaceAll("&gt;", ">")
    .replaceAll("&quot;", '"')
    .replaceAll("&#39;", "'")
    .replaceAll("&amp;", "&");
}
