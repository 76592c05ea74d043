import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { functionNames, librarySource } from "#lua/library.ts";
import { REFUSAL_CODES } from "#shared/contract/reply.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const CONTRACT = readText("docs/contract.md");
const REFERENCE = readText("docs/reference-lua.md");

const FUNCTIONS = [
  ...new Set(([11, 14] as const).flatMap((edition) => functionNames(librarySource(edition)))),
];
const TRACKED_TEXT = ["*.ts", "*.mjs", "*.lua", "*.md", "*.yml", "*.json"];
/** "contract, section 6", "contract, sections 6 and 7", "contract (section 3)", also across a line break of a comment. */
const CITATION =
  /\bcontract[ ,(]+sections?\s(\d+)(?:(?:,\s|\sand\s|\sto\s|–)(\d+))*|\bsection\s(\d+)\sof\sthe\scontract/gi;

function readText(path: string): string {
  return readFileSync(`${ROOT}${path}`, "utf8");
}

/** The section numbers that a text cites, its comment markers and line breaks removed. */
function citedSections(text: string): number[] {
  const prose = text.replace(/\n[ \t]*(?:\*|\/\/|--|#|>)?[ \t]*/g, " ");
  return [...prose.matchAll(CITATION)].flatMap(([citation]) => (citation.match(/\d+/g) ?? []).map(Number));
}

/** Each citation in the repository as `path: section`. */
function citationsInRepository(): string[] {
  const paths = execFileSync("git", ["ls-files", "-z", "--", ...TRACKED_TEXT], {
    cwd: ROOT,
    encoding: "utf8",
  })
    .split("\0")
    .filter((path) => path !== "" && path !== "package-lock.json" && path !== "test/docs/contract.test.ts");
  return paths.flatMap((path) => citedSections(readText(path)).map((section) => `${path}: ${section}`));
}

test("each function of the library has a heading in contract.md, with KEYS, ARGV and a reply", () => {
  const entries = new Map(
    CONTRACT.split(/^### /m)
      .slice(1)
      .map((entry) => [entry.slice(0, entry.indexOf("\n")), entry]),
  );
  expect(FUNCTIONS.length).toBeGreaterThan(0);
  const incomplete = FUNCTIONS.filter((name) => {
    const entry = entries.get(`\`${name}\``) ?? "";
    return !["**KEYS", "**ARGV", "**Reply"].every((part) => entry.includes(part));
  });
  expect(incomplete).toEqual([]);
});

test("each function of the library has one row in reference-lua.md, and no other function has one", () => {
  const rows = [...REFERENCE.matchAll(/^\| `((?:ff|sluice)_\w+)` \|/gm)].map((match) => match[1]);
  expect(rows).toEqual(FUNCTIONS.toSorted());
});

test("reference-lua.md lists the same refusal codes as the header of each function", () => {
  const codesIn = (text: string): string[] =>
    REFUSAL_CODES.filter((code) => new RegExp(`\\b${code}\\b`).test(text)).toSorted();
  const headers = execFileSync("git", ["ls-files", "-z", "--", "lua/ff_*.lua", "lua/*/ff_*.lua"], {
    cwd: ROOT,
    encoding: "utf8",
  })
    .split("\0")
    .filter((path) => path !== "")
    .map((path) => ({
      name: basename(path, ".lua"),
      // Remarks are in parentheses.
      refusals: (/^-- Refusals([\s\S]*?)^-- (?:Publishes|Cost)/m.exec(readText(path))?.[1] ?? "").replace(
        /\([^)]*\)/g,
        "",
      ),
    }));
  const expected = Map.groupBy(headers, ({ name }) => name);
  const differing = [...expected].flatMap(([name, editions]) => {
    const row = new RegExp(`^\\| \`${name}\` \\|.*$`, "m").exec(REFERENCE)?.[0] ?? "";
    const documented = codesIn(row.split(" | ")[4] ?? "");
    const actual = codesIn(editions.map(({ refusals }) => refusals).join(" "));
    return String(documented) === String(actual) ? [] : [{ name, documented, actual }];
  });
  expect(expected.size).toBeGreaterThan(10);
  expect(differing).toEqual([]);
});

test("contract.md has the sections 1 to 15, each once and in order", () => {
  const sections = [...CONTRACT.matchAll(/^## (\d+)\. /gm)].map((match) => Number(match[1]));
  expect(sections).toEqual(Array.from({ length: 15 }, (_, index) => index + 1));
});

test("each section that the repository cites exists in contract.md", () => {
  const sections = new Set([...CONTRACT.matchAll(/^## (\d+)\. /gm)].map((match) => match[1]));
  const citations = citationsInRepository();
  expect(citations.length).toBeGreaterThan(20);
  expect(citations.filter((citation) => !sections.has(citation.split(": ")[1]))).toEqual([]);
});

test.each([
  ["a reply (contract, section 5).", [5]],
  ["its call (contract, sections 6 and 7).", [6, 7]],
  ["of the contract (sections 6 and 7)", [6, 7]],
  ["the wire contract\n * (section 3): keys", [3]],
  ["-- the contract,\n-- section 12", [12]],
  ["section 4 of the contract", [4]],
  ["contract, sections 10 to 15", [10, 15]],
  ["another document, section 99", []],
])("reads the citation in %j", (text, sections) => {
  expect(citedSections(text)).toEqual(sections);
});

test("each refusal code of the library occurs in contract.md", () => {
  const codes = new Set(
    [...CONTRACT.matchAll(/`([^`\n]+)`/g)].map((match) => match[1]?.match(/^[a-z_]+/)?.[0]),
  );
  expect(REFUSAL_CODES.filter((code) => !codes.has(code))).toEqual([]);
});
