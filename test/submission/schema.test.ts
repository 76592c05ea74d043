/**
 * schema/workflow.json: it is generated from the parser's definitions, and accepts the same files, except for rules about
 * the whole graph. `npm run vitest -- test/submission/schema.test.ts -u` writes it.
 */

import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Ajv2020 } from "ajv/dist/2020.js";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import * as z from "zod/mini";
import { nativeFormat } from "#sdk/submission/native-format.ts";
import { parseWorkflow } from "#sdk/submission/parse.ts";

const ROOT = new URL("../../", import.meta.url);
const read = (path: string): string => readFileSync(new URL(path, ROOT), "utf8");

const { $schema, ...definition } = z.toJSONSchema(nativeFormat, { io: "input" });
const schema = {
  $schema,
  title: "Sluice workflow",
  description: "A directed acyclic graph of tasks. docs/workflows.md explains every property.",
  ...definition,
};
const ajv = new Ajv2020({
  strict: true,
  // `oneOf` names properties that are defined beside it.
  strictRequired: false,
  allErrors: true,
  // The pattern checks what the format says.
  formats: { "date-time": true },
});
const accepts = ajv.compile(schema);

/** What JSON Schema cannot express. docs/workflows.md lists it. */
const GRAPH_ERRORS =
  /is already used by|no task has the id|depend on itself|repeats the dependency|is part of the cycle|needs dependencies|at most the number of dependencies|must be later than the delay|half of a Unicode surrogate pair/;

function errorsOf(file: unknown): string[] {
  const result = parseWorkflow(JSON.stringify(file), "flow.json");
  return result.ok ? [] : result.errors;
}

/** A value for each property: mostly valid ones, and what is just outside the limits. */
const VALUES: Readonly<Record<string, readonly unknown[]>> = {
  lane: ["gpu", "a b", "x".repeat(64), "x".repeat(65), "", "\u00b5", 7],
  kind: ["report", "~", "", "line\nbreak", null],
  priority: [0, 9_000, 9_001, -1, 0.5, "1"],
  payload: [null, "text", { deep: [1, { x: null }] }, 0, false],
  timeoutSeconds: [0.001, 1.5, 2_592_000, 2_592_000.1, 0, -1, "1"],
  maxReclaims: [0, 1_000, 1_001, -1, 1.5],
  delaySeconds: [0, 0.25, 31_536_000, 31_536_001, -0.1],
  deadline: [
    40_000_000,
    31_536_000,
    0,
    "2030-01-31T18:00:00Z",
    "2030-01-31T18:00:00.123+05:30",
    "2028-02-29T00:00:00Z",
    "2030-02-29T00:00:00Z",
    "2030-01-31T18:00:00",
    "2030-01-31",
    "2030-01-31T25:00:00Z",
    "tomorrow",
  ],
  retentionHours: [1, 87_600, 87_601, 0, 1.5],
  retry: [
    { attempts: 1 },
    { attempts: 1_001, backoff: { type: "fixed", delayMs: 0 } },
    { maxRetries: 0 },
    { maxRetries: 1_000, backoff: { type: "exponential", initialDelayMs: 1 } },
    { attempts: 2, backoff: { type: "exponential", initialDelayMs: 1, maxDelayMs: 2, multiplier: 1.5 } },
    { attempts: 0 },
    { attempts: 1_002 },
    { maxRetries: 1_001 },
    { attempts: 2, maxRetries: 1 },
    { backoff: { type: "fixed", delayMs: 1 } },
    { attempts: 2, backoff: { type: "linear", delayMs: 1 } },
    { attempts: 2, backoff: { type: "fixed", delayMs: 1, multiplier: 2 } },
    { attempts: 2, backoff: { type: "exponential", initialDelayMs: 1, multiplier: 0.5 } },
    { attempts: 2, backoff: { type: "exponential" } },
    { attempts: 2, jitter: true },
    3,
  ],
  waitFor: [
    { anyOf: true },
    { quorum: 1 },
    { quorum: 2, onSatisfied: "cancelRemaining" },
    { anyOf: true, onSatisfied: "letRun" },
    { anyOf: false },
    { quorum: 0 },
    { quorum: 1.5 },
    { anyOf: true, quorum: 1 },
    { onSatisfied: "letRun" },
    { quorum: 1, onSatisfied: "cancel_remaining" },
    {},
    true,
  ],
  dependsOn: [[], ["t0"], [{ task: "t0" }], [{ task: "t0", passData: true }], [{ task: "" }], [1], "t0"],
  retries: [1],
};

/** Usually the first arbitrary, sometimes the second. */
const mostly = <T, U>(usual: fc.Arbitrary<T>, rare: fc.Arbitrary<U>) =>
  fc.oneof({ weight: 12, arbitrary: usual }, { weight: 1, arbitrary: rare });

const settings = fc
  .subarray(Object.keys(VALUES), { maxLength: 3 })
  .chain((names) =>
    fc.tuple(...names.map((name) => fc.tuple(fc.constant(name), fc.constantFrom(...(VALUES[name] ?? []))))),
  )
  .map((entries): Record<string, unknown> => Object.fromEntries(entries));

const task = fc.tuple(mostly(fc.constant(true), fc.jsonValue()), mostly(fc.constant({}), settings));

const file = fc.record({
  $schema: mostly(fc.constant("../schema/workflow.json"), fc.jsonValue()),
  name: mostly(fc.string({ minLength: 1 }), fc.jsonValue()),
  tasks: fc
    .tuple(fc.array(task, { maxLength: 4 }), settings)
    .map(([entries, last]) => [
      ...entries.map(([id, values], number) => ({ id: id === true ? `t${number}` : id, ...values })),
      { id: "last", ...last },
    ]),
});

describe("schema/workflow.json", () => {
  test("is what the parser's definitions say", async () => {
    const file = fileURLToPath(new URL("schema/workflow.json", ROOT));
    await expect(`${JSON.stringify(schema, null, 2)}\n`).toMatchFileSnapshot(file);
  });

  test.each(Object.entries(VALUES).flatMap(([name, values]) => values.map((value) => ({ name, value }))))(
    "agrees with the parser on $name: $value",
    ({ name, value }) => {
      const tasks = [
        { id: "t0" },
        { id: "t1", dependsOn: ["t0"] },
        { id: "t2", dependsOn: ["t0", "t1"], [name]: value },
      ];
      const candidate = { name: "a name", tasks };
      const errors = errorsOf(candidate);
      expect(errors.filter((error) => !GRAPH_ERRORS.test(error)).length > 0).toBe(!accepts(candidate));
    },
  );

  test("agrees with the parser on generated files", () => {
    const seen = { accepted: 0, refused: 0 };
    fc.assert(
      fc.property(file, (candidate) => {
        const text = JSON.stringify(candidate);
        const isAccepted = accepts(JSON.parse(text));
        seen[isAccepted ? "accepted" : "refused"] += 1;
        const errors = errorsOf(candidate);
        const beyondSchema = errors.filter((error) => GRAPH_ERRORS.test(error));
        expect({ text, isAccepted }).toEqual({ text, isAccepted: errors.length === beyondSchema.length });
      }),
      { numRuns: 1_000 },
    );
    // The generator reaches both answers.
    expect(Math.min(seen.accepted, seen.refused)).toBeGreaterThan(50);
  });

  test.each([
    ...readdirSync(new URL("examples/", ROOT))
      .filter((name) => name.endsWith(".json"))
      .map((name) => [`examples/${name}`, read(`examples/${name}`)]),
    ...[...read("docs/workflows.md").matchAll(/```json\n([\s\S]*?)```/g)].map(([, text = ""], number) => [
      `docs/workflows.md, example ${number + 1}`,
      text,
    ]),
  ])("and the parser accept %s", (name, text) => {
    expect(parseWorkflow(text ?? "", name ?? "")).toMatchObject({ ok: true });
    accepts(JSON.parse(text ?? ""));
    expect(accepts.errors ?? []).toEqual([]);
  });
});
