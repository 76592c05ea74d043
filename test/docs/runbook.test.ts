import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { COMMANDS } from "#cli/commands.ts";
import { CODES } from "#operate/doctor/codes.ts";
import { CAUSES } from "#operate/explain/causes.ts";
import { alarms, runbookEntry } from "../../deploy/alarms.ts";
import type { ReadyLane } from "../../deploy/lanes.ts";

const PAGE = readFileSync(new URL("../../docs/runbook.md", import.meta.url), "utf8");

const LANE: ReadyLane = {
  name: "images",
  id: "images",
  suffix: "Images",
  timeoutSeconds: 60,
  worker: {
    functionName: "sluice-test-worker-images",
    artifact: "/artifact",
    handler: "index.handler",
    maximumConcurrency: 10,
    isSerial: false,
    batchSize: 10,
    memoryMegabytes: 512,
    environment: {},
    policyArns: [],
  },
};

/** Every alarm that a deployment can have, by logical id. */
const ALARMS = alarms(
  {
    stage: "test",
    oldestMessageSeconds: 300,
    lanes: [LANE],
    valkey: { shards: 2, replicas: 1 },
  },
  [],
);
const NAMES = [...new Set(Object.keys(ALARMS).map(runbookEntry))];

/** The text below each heading of the third level. */
const ENTRIES = new Map(
  PAGE.split("\n### ")
    .slice(1)
    .map((text) => {
      const [heading = "", ...lines] = text.split("\n");
      return [heading, lines.join("\n").split("\n## ")[0] ?? ""] as const;
    }),
);

const REFERENCE = readFileSync(new URL("../../docs/cli.md", import.meta.url), "utf8");

/** The command lines of a page in backquotes that `sluice` refuses: their command or one of their options does not exist. */
function wrongCommandLines(page: string): string[] {
  const names = COMMANDS.map(({ name }) => name).toSorted((one, other) => other.length - one.length);
  const lines = [...page.matchAll(/`sluice ([^`]+)`/g)].map(([, line = ""]) => line);
  expect(lines.length).toBeGreaterThan(4);
  return lines.filter((line) => {
    const name = names.find((one) => line === one || line.startsWith(`${one} `));
    // A group, such as dlq.
    if (name === undefined) return !names.some((one) => one.startsWith(`${line} `));
    const [, section = ""] = REFERENCE.split(`\n## ${name}\n`);
    const options = section.split("\n## ")[0] ?? "";
    return (line.match(/--[a-z-]+/g) ?? []).some((option) => !options.includes(`| \`${option}`));
  });
}

/** Other words of the page: a state, and a policy of an edge group. */
const OTHER_WORDS: ReadonlySet<string> = new Set(["waiting_children", "any_of"]);

describe("docs/runbook.md", () => {
  it("has an entry for every alarm of a deployment, and no other", () => {
    expect(NAMES.length).toBeGreaterThan(20);
    expect([...ENTRIES.keys()].sort()).toEqual(NAMES.sort());
  });

  it.each(NAMES)("says about %s what it means, how to look, what to do and what not to do", (name) => {
    const entry = ENTRIES.get(name) ?? "";
    const [meaning = ""] = entry.trim().split("\n");
    expect(meaning).toMatch(/^[A-Z[]/);
    for (const label of ["- **Look:**", "- **Do:**", "- **Do not**"]) expect(entry).toContain(`\n${label} `);
    expect(entry, "a link to the command that shows it").toMatch(/cli\.md#/);
  });

  it("names only commands and options that exist", () => {
    expect(wrongCommandLines(PAGE)).toEqual([]);
  });
});

describe("docs/operations.md", () => {
  const operations = readFileSync(new URL("../../docs/operations.md", import.meta.url), "utf8");

  it("names only commands and options that exist", () => {
    expect(wrongCommandLines(operations)).toEqual([]);
  });

  it("names only causes that explain can find", () => {
    const [, hangs = ""] = operations.split("\n## My workflow hangs\n");
    const named = [...(hangs.split("\n## ")[0] ?? "").matchAll(/`([a-z]+(?:_[a-z]+)+)`/g)].map(
      ([, code = ""]) => code,
    );
    const causes = named.filter((code) => !OTHER_WORDS.has(code));
    expect(causes.length).toBeGreaterThan(10);
    expect(causes.filter((code) => !(code in CAUSES))).toEqual([]);
  });
});

describe("the remedies of doctor", () => {
  it("name only commands and options that exist", () => {
    const remedies = Object.values(CODES).map(({ remedy }) => remedy);
    expect(wrongCommandLines(remedies.join("\n"))).toEqual([]);
  });
});

describe("the description of each alarm", () => {
  it.each(Object.entries(ALARMS))("links %s to its entry", (id, alarm) => {
    const { AlarmDescription: text } = Object(alarm).Properties;
    expect(String(text)).toMatch(
      new RegExp(`\\. Runbook: docs/runbook\\.md#${runbookEntry(id).toLowerCase()}$`),
    );
  });
});
