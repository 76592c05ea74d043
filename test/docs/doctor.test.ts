import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { CODES } from "#operate/doctor/codes.ts";

const PAGE = readFileSync(new URL("../../docs/doctor.md", import.meta.url), "utf8");

describe("docs/doctor.md", () => {
  it("has a row for every finding, as operate/doctor/codes.ts defines it", () => {
    const rows = PAGE.split("\n").filter((line) => /^\| `[a-z_]+` \| (?:error|warning) \|/.test(line));
    const expected = Object.entries(CODES).map(
      ([code, { severity, meaning, remedy }]) => `| \`${code}\` | ${severity} | ${meaning} | ${remedy} |`,
    );
    expect(expected.length).toBeGreaterThan(50);
    expect(rows).toEqual(expected);
  });
});

describe("the tests of sluice doctor", () => {
  it("plant every finding", () => {
    const tests = ["doctor.test.ts", "doctor-deployment.test.ts", "doctor-run.test.ts"]
      .map((name) => readFileSync(new URL(`../cli/${name}`, import.meta.url), "utf8"))
      .join("\n");
    expect(Object.keys(CODES).filter((code) => !tests.includes(`"${code}"`))).toEqual([]);
  });
});
