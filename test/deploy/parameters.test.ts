import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const read = (path: string): string => readFileSync(`${ROOT}${path}`, "utf8");

interface Parameter {
  readonly name: string;
  readonly defaultValue: string;
  readonly meaning: string;
}

/** The parameters in the defaults of serverless.yml, each with the comment above it. */
function declared(): Parameter[] {
  const section = /^ {2}default:\n([\s\S]*?)\n {2}\w+:\n/m.exec(read("serverless.yml"))?.[1] ?? "";
  const parameters: Parameter[] = [];
  let comment: string[] = [];
  for (const line of section.split("\n")) {
    const [, text] = /^ {4}# (.*)$/.exec(line) ?? [];
    const [, name, value = ""] = /^ {4}(\w+): (.*)$/.exec(line) ?? [];
    if (text !== undefined) comment.push(text);
    if (name === undefined) continue;
    parameters.push({ name, defaultValue: value.replace(/^"|"$/g, ""), meaning: comment.join(" ") });
    comment = [];
  }
  return parameters;
}

/** The rows of the table in docs/deploy.md. */
function documented(): Parameter[] {
  const [, table = ""] = /\| parameter \| default \| meaning \|\n\|---\|---\|---\|\n((?:\|.*\n)+)/.exec(
    read("docs/deploy.md"),
  ) ?? [""];
  return table
    .trim()
    .split("\n")
    .map((row) => {
      const [, name = "", defaultValue = "", meaning = ""] = row.split("|").map((cell) => cell.trim());
      return {
        name: name.replaceAll("`", ""),
        defaultValue: defaultValue === "none" ? "" : defaultValue.replaceAll("`", ""),
        meaning,
      };
    });
}

describe("the parameters of a deployment", () => {
  it("have the same comment and default in serverless.yml and docs/deploy.md", () => {
    const parameters = declared();
    expect(parameters.length).toBeGreaterThan(30);
    expect(parameters.filter(({ meaning }) => meaning === "")).toEqual([]);
    expect(documented()).toEqual(parameters);
  });

  it("are all used, and no other parameter is", () => {
    const files = readdirSync(`${ROOT}deploy`, { recursive: true, encoding: "utf8" })
      .filter((path) => /\.(?:yml|ts)$/.test(path))
      .map((path) => read(`deploy/${path}`));
    const used = [read("serverless.yml"), ...files].flatMap((text) =>
      [...text.matchAll(/(?:\$\{|")param:(\w+)/g)].map(([, name]) => name),
    );
    const names = declared().map(({ name }) => name);
    expect([...new Set(used)].sort()).toEqual([...names].sort());
  });

  it("of a stage all have a default", () => {
    const stages = /\nparams:\n([\s\S]*?)\n\w/.exec(read("serverless.yml"))?.[1] ?? "";
    const set = [...stages.matchAll(/^ {4}(\w+): /gm)].map(([, name]) => name);
    const names = declared().map(({ name }) => name);
    expect(set.filter((name) => !names.includes(String(name)))).toEqual([]);
  });
});
