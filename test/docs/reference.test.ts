import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { METRICS_BY_FUNCTION, type MetricName, unitOf } from "#shared/runtime/telemetry.ts";

const ROOT = new URL("../../", import.meta.url);

function read(path: string): string {
  return readFileSync(new URL(path, ROOT), "utf8");
}

/** The text below a heading of the second level, up to the next one. */
function section(page: string, heading: string): string {
  const [, text = ""] = page.split(`\n## ${heading}\n`);
  return text.split("\n## ")[0] ?? "";
}

/** The rows of all tables in a text, each as its cells, without backquotes. */
function rows(text: string): string[][] {
  return text
    .split("\n")
    .filter((line) => line.startsWith("| `"))
    .map((line) => line.split("|").map((cell) => cell.trim().replaceAll("`", "")));
}

describe("docs/metrics.md", () => {
  it.each(Object.entries(METRICS_BY_FUNCTION))(
    "lists the metrics of %s with their units",
    (name, metrics) => {
      const documented = rows(section(read("docs/metrics.md"), name)).flatMap(([, names = "", unit = ""]) =>
        names.split(", ").map((metric) => `${metric}: ${unit}`),
      );
      const emitted = metrics.map((metric: MetricName) => `${metric}: ${unitOf(metric).toLowerCase()}`);
      expect(documented.sort()).toEqual(emitted.sort());
    },
  );
});

describe("docs/error-codes.md", () => {
  it("lists the code and the class of every error", () => {
    const documented = rows(section(read("docs/error-codes.md"), "Errors of Sluice")).map(
      ([, code, name]) => `${name}: ${code}`,
    );
    const defined = [
      ...read("shared/errors.ts").matchAll(/readonly name = "(\w+)";\n\s+override readonly code = "(\w+)"/g),
    ].map(([, name, code]) => `${name}: ${code}`);
    expect(defined.length).toBeGreaterThan(5);
    expect(documented.sort()).toEqual(defined.sort());
  });
});

describe("docs/configuration.md", () => {
  const CONFIGS = [
    "shared/valkey/config.ts",
    "shared/redrive/config.ts",
    "functions/dispatch/config.ts",
    "functions/reconcile/config.ts",
    "shared/reconcile/config.ts",
    "shared/reconcile/grace.ts",
    "functions/provision/config.ts",
    "relay/config.ts",
  ];

  it("lists every variable that a configuration reads", () => {
    const documented = new Set(
      rows(read("docs/configuration.md")).flatMap(([, names = ""]) => names.split(", ")),
    );
    const variables = CONFIGS.flatMap((path) =>
      [...read(path).matchAll(/"([A-Z]+(?:_[A-Z]+)+|LANES)"|\benv\.([A-Z_]+)/g)].map(
        ([, quoted, property]) => quoted ?? property ?? "",
      ),
    );
    expect(variables).toContain("VALKEY_URL");
    expect(variables).toContain("LANES");
    expect([...new Set(variables)].filter((name) => !documented.has(name))).toEqual([]);
  });
});
