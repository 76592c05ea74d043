import { describe, expect, test } from "vitest";
import { topologicalOrder } from "#sdk/submission/graph.ts";
import { parseWorkflow } from "#sdk/submission/parse.ts";
import type { Workflow } from "#sdk/submission/workflow.ts";

function parsed(specification: unknown): Workflow {
  const result = parseWorkflow(JSON.stringify(specification), "flow.json");
  if (!result.ok) throw new Error(result.errors.join("\n"));
  return result.value;
}

function errorsOf(specification: unknown): string[] {
  const text = typeof specification === "string" ? specification : JSON.stringify(specification);
  const result = parseWorkflow(text, "flow.json");
  return result.ok ? [] : result.errors;
}

function tasks(...entries: unknown[]): unknown {
  return { name: "example", tasks: entries };
}

function wfFormat(...entries: unknown[]): unknown {
  return { name: "example", schemaVersion: "1.5", workflow: { specification: { tasks: entries } } };
}

describe("Sluice's own format", () => {
  test("a payload that is nested too deeply for JSON.stringify is an error with its path", () => {
    const payload = `${"[".repeat(100_000)}${"]".repeat(100_000)}`;
    expect(errorsOf(`{"name":"x","tasks":[{"id":"a","payload":${payload}}]}`)).toEqual([
      expect.stringMatching(/tasks\[0\]\.payload.*nested too deeply/),
    ]);
  });

  test("a payload above 256 KiB is an error that says where to put it", () => {
    const [longest, tooLong] = [262_144, 262_145].map((length) =>
      tasks({ id: "a", payload: "x".repeat(length) }),
    );
    expect(parsed(longest ?? "").tasks[0]?.payload).toHaveLength(262_144);
    expect(errorsOf(tooLong ?? "")).toEqual([expect.stringMatching(/tasks\[0\]\.payload.*262145 bytes.*S3/)]);
  });

  test("a task needs only an id", () => {
    expect(parsed(tasks({ id: "a" }))).toEqual({
      name: "example",
      tasks: [{ id: "a", lane: "default", priority: 0, payload: "" }],
      edges: [],
    });
  });

  test("all properties of a task are read", () => {
    const workflow = parsed(
      tasks(
        { id: "b", dependsOn: [{ task: "a", passData: true }, "c", { task: "d" }] },
        { id: "a", lane: "gpu", priority: 9000, payload: { x: [1, null] }, retry: { maxRetries: 2 } },
        {
          id: "c",
          payload: "as it is",
          retry: { maxRetries: 1, backoff: { type: "exponential", initialDelayMs: 10, maxDelayMs: 99 } },
        },
        { id: "d", payload: null, retry: { maxRetries: 0, backoff: { type: "fixed", delayMs: 5 } } },
      ),
    );
    expect(workflow.tasks.map(({ id }) => id)).toEqual(["b", "a", "c", "d"]);
    expect(workflow.tasks.map(({ payload }) => payload)).toEqual(["", '{"x":[1,null]}', "as it is", "null"]);
    expect(workflow.tasks[1]).toMatchObject({ lane: "gpu", priority: 9000 });
    expect(workflow.tasks.map(({ retry }) => retry)).toEqual([
      undefined,
      { attempts: 3, backoff: { type: "fixed", delayMs: 1000 } },
      { attempts: 2, backoff: { type: "exponential", initialDelayMs: 10, maxDelayMs: 99, multiplier: 2 } },
      { attempts: 1, backoff: { type: "fixed", delayMs: 5 } },
    ]);
    expect(workflow.edges).toEqual([
      { from: "a", to: "b", dataPassing: true },
      { from: "c", to: "b", dataPassing: false },
      { from: "d", to: "b", dataPassing: false },
    ]);
  });

  test.each<[what: string, specification: unknown, path: string, message: RegExp]>([
    ["no name", { tasks: [{ id: "a" }] }, "name", /is missing, expected a string/],
    ["no tasks", tasks(), "tasks", /must not be empty/],
    ["tasks that are not a list", { name: "x", tasks: {} }, "tasks", /must be an array/],
    ["a task without an id", tasks({ lane: "gpu" }), "tasks[0].id", /is missing/],
    ["an id that is a number", tasks({ id: 7 }), "tasks[0].id", /must be a string, not the number 7/],
    ["an empty id", tasks({ id: "" }), "tasks[0].id", /must not be empty/],
    [
      "an id with a lone surrogate",
      tasks({ id: "\ud800" }),
      "tasks[0].id",
      /half of a Unicode surrogate pair/,
    ],
    ["an unknown top-level property", { name: "x", tasks: [{ id: "a" }], edges: [] }, "", /"edges"/],
    ["an unknown property", tasks({ id: "a", depends_on: [] }), "tasks[0]", /unknown property "depends_on"/],
    ["an invalid lane", tasks({ id: "a", lane: "µ" }), "tasks[0].lane", /printable ASCII/],
    ["a negative priority", tasks({ id: "a", priority: -1 }), "tasks[0].priority", /at least 0/],
    ["a priority above 9000", tasks({ id: "a", priority: 9001 }), "tasks[0].priority", /at most 9000/],
    [
      "a fractional priority",
      tasks({ id: "a", priority: 0.5 }),
      "tasks[0].priority",
      /a whole number, not the number/,
    ],
    [
      "retry without a count",
      tasks({ id: "a", retry: {} }),
      "tasks[0].retry",
      /either "attempts" or "maxRetries"/,
    ],
    [
      "an unknown backoff",
      tasks({ id: "a", retry: { maxRetries: 1, backoff: { type: "linear" } } }),
      "tasks[0].retry.backoff.type",
      /"fixed" or "exponential"/,
    ],
    [
      "a fixed backoff without a delay",
      tasks({ id: "a", retry: { maxRetries: 1, backoff: { type: "fixed" } } }),
      "tasks[0].retry.backoff.delayMs",
      /is missing/,
    ],
    [
      "a dependency that is an object without a task",
      tasks({ id: "a" }, { id: "b", dependsOn: ["a", { tsk: "a" }] }),
      "tasks[1].dependsOn[1]",
      /the id of a task, or an object/,
    ],
    [
      "an unknown parent",
      tasks({ id: "a" }, { id: "b", dependsOn: ["a", "z"] }),
      "tasks[1].dependsOn[1]",
      /no task has the id "z"/,
    ],
    ["a duplicate id", tasks({ id: "a" }, { id: "a" }), "tasks[1].id", /"a" is already used by tasks\[0\]/],
    [
      "a duplicate edge",
      tasks({ id: "a" }, { id: "b", dependsOn: ["a", { task: "a", passData: true }] }),
      "tasks[1].dependsOn[1]",
      /repeats the dependency on "a" in tasks\[1\]\.dependsOn\[0\]/,
    ],
    ["a self edge", tasks({ id: "a", dependsOn: ["a"] }), "tasks[0].dependsOn[0]", /depend on itself/],
    [
      "a cycle",
      tasks(
        { id: "s" },
        { id: "a", dependsOn: ["s", "c"] },
        { id: "b", dependsOn: ["a"] },
        {
          id: "c",
          dependsOn: ["b"],
        },
      ),
      "tasks[",
      /is part of the cycle ("a" → "b" → "c" → "a"|"b" → "c" → "a" → "b"|"c" → "a" → "b" → "c")/,
    ],
    ["an array", [], "", /unknown format: expected a Sluice workflow .* or a WfFormat/],
    ["null", null, "", /unknown format/],
    ["another file", { version: 3 }, "", /unknown format/],
  ])("%s is an error with its path", (_, specification, path, message) => {
    const errors = errorsOf(specification);
    expect(errors).toHaveLength(1);
    expect(errors[0]).toMatch(message);
    expect(errors[0]?.startsWith(path === "" ? "flow.json: " : `flow.json: ${path}`)).toBe(true);
  });

  test("all schema errors are listed; without any, all graph errors", () => {
    expect(errorsOf(tasks({ id: "a", lane: "", priority: -1, prio: 1 }, { id: 1 }))).toHaveLength(4);
    const graph = errorsOf(
      tasks(
        { id: "a", dependsOn: ["b", "x", "a"] },
        { id: "b", dependsOn: ["a"] },
        { id: "c", dependsOn: ["d"] },
        { id: "d", dependsOn: ["c"] },
        { id: "d" },
      ),
    );
    expect(graph.filter((error) => error.includes("cycle"))).toHaveLength(2);
    expect(graph).toHaveLength(5);
  });

  test("80 errors are cut to 50 and a count of the rest", () => {
    const errors = errorsOf(tasks(...Array.from({ length: 80 }, () => ({ id: "" }))));
    expect(errors).toHaveLength(51);
    expect(errors.at(-1)).toBe("flow.json: and 30 more errors");
  });

  test("100,000 tasks in a chain are read, and a cycle of them is shortened in the error", () => {
    const chain = Array.from({ length: 100_000 }, (_, number) => ({
      id: `t${number}`,
      dependsOn: number === 0 ? [] : [`t${number - 1}`],
    }));
    expect(parsed(tasks(...chain)).edges).toHaveLength(99_999);
    chain[0]?.dependsOn.push("t99999");
    const [error, ...rest] = errorsOf(tasks(...chain));
    expect(rest).toEqual([]);
    expect(error).toMatch(/cycle .* → \(99981 more\) → /);
  });
});

describe("JSON errors", () => {
  test.each([
    ["", 1, 1, "a value"],
    ["{", 1, 2, "a property name"],
    ['{"name": x}', 1, 10, 'a value, found "x"'],
    ['{\n  "name": "x",\n  "tasks": [1,]\n}', 3, 15, "a value"],
    ['{"a": 1 "b": 2}', 1, 9, '"," or "}"'],
    ['{"a" 1}', 1, 6, '":"'],
    ["{'a': 1}", 1, 2, "a property name in double quotes"],
    ['{"a": "x\ny"}', 1, 9, "the rest of a string"],
    ['{"a": "\\q"}', 1, 8, "the rest of a string"],
    ["[1, 2}", 1, 6, '"," or "]"'],
    ['{"a": 1,}', 1, 9, "a property name"],
    ['{"a": 01}', 1, 8, '"," or "}"'],
    ["{} {}", 1, 4, "the end of the text"],
    [`${"[".repeat(100_000)}`, 1, 100_001, 'a value or "]"'],
  ])("in %j the error is at line %i, column %i", (text, line, column, message) => {
    const errors = errorsOf(text);
    expect(errors).toHaveLength(1);
    expect(errors[0]).toContain(`flow.json: line ${line}, column ${column}: invalid JSON`);
    expect(errors[0]).toContain(message);
  });

  test("a byte order mark is ignored", () => {
    expect(parseWorkflow(`\ufeff${JSON.stringify(tasks({ id: "a" }))}`, "flow.json").ok).toBe(true);
  });
});

describe("WfFormat 1.5", () => {
  const whole = {
    name: "blast-small",
    description: "an example",
    createdAt: "2026-01-01T00:00:00Z",
    schemaVersion: "1.5",
    author: { name: "an author", email: "a@example.org" },
    runtimeSystem: { name: "an engine", version: "1", url: "https://example.org" },
    workflow: {
      specification: {
        tasks: [
          { name: "split", id: "split_1", parents: [], children: ["work_2"], inputFiles: ["in"] },
          { name: "work", id: "work_2", parents: ["split_1"], children: [], outputFiles: ["out"] },
        ],
        files: [{ id: "in", sizeInBytes: 1 }],
      },
      execution: {
        makespanInSeconds: 3,
        executedAt: "2026-01-01T00:00:00Z",
        tasks: [
          {
            id: "split_1",
            runtimeInSeconds: 1.5,
            command: { program: "split", arguments: ["-n"] },
            machines: ["m"],
          },
        ],
        machines: [{ nodeName: "m", cpu: { coreCount: 2 } }],
      },
    },
  };

  test("a whole file is read; a task's name and run time become its payload", () => {
    expect(parsed(whole)).toEqual({
      name: "blast-small",
      tasks: [
        { id: "split_1", lane: "default", priority: 0, payload: '{"name":"split","runtimeInSeconds":1.5}' },
        { id: "work_2", lane: "default", priority: 0, payload: '{"name":"work"}' },
      ],
      edges: [{ from: "split_1", to: "work_2", dataPassing: false }],
    });
  });

  test.each([
    ["parents", [{ id: "a" }, { id: "b", parents: ["a"] }]],
    ["children", [{ id: "a", children: ["b"] }, { id: "b" }]],
  ])("a file with %s only is read", (_, entries) => {
    expect(parsed(wfFormat(...entries)).edges).toEqual([{ from: "a", to: "b", dataPassing: false }]);
  });

  const at = "workflow.specification.tasks";
  test.each<[what: string, specification: unknown, errors: [path: string, message: RegExp][]]>([
    [
      "another major version",
      { ...whole, schemaVersion: "2.0" },
      [["schemaVersion", /must be a string from "1.0" to "1.6", not the string "2.0"/]],
    ],
    [
      "a version that is a number",
      { ...whole, schemaVersion: 1.5 },
      [["schemaVersion", /not the number 1.5/]],
    ],
    ["no version", { name: "x", workflow: whole.workflow }, [["schemaVersion", /is missing/]]],
    [
      "the tasks of an older version",
      { ...named(), schemaVersion: "1.5" },
      [["workflow.specification", /is missing/]],
    ],
    [
      "two run times of one task",
      {
        ...whole,
        workflow: { ...whole.workflow, execution: { tasks: [{ id: "x" }, { id: "a" }, { id: "x" }] } },
      },
      [["workflow.execution.tasks[2].id", /"x" occurs more than once/]],
    ],
    ["no tasks", wfFormat(), [[at, /must not be empty/]]],
    ["no workflow", { name: "x", schemaVersion: "1.5" }, [["workflow", /is missing/]]],
    ["an id that is not a string", wfFormat({ id: 1 }), [[`${at}[0].id`, /must be a string/]]],
    [
      "an unknown child",
      wfFormat({ id: "a", parents: [], children: ["b"] }),
      [[`${at}[0].children[0]`, /no task has the id "b"/]],
    ],
    [
      "an unknown parent",
      wfFormat({ id: "a", parents: ["b"], children: [] }),
      [[`${at}[0].parents[0]`, /no task has the id "b"/]],
    ],
    [
      "a parent that does not list its child",
      wfFormat({ id: "a", parents: [], children: [] }, { id: "b", parents: ["a"], children: [] }),
      [[`${at}[1].parents[0]`, /"a" does not name "b" among its children/]],
    ],
    [
      "a child that does not list its parent",
      wfFormat({ id: "a", parents: [], children: ["b"] }, { id: "b", parents: [], children: [] }),
      [[`${at}[0].children[0]`, /"b" does not name "a" among its parents/]],
    ],
    [
      "a child named twice",
      wfFormat({ id: "a", parents: [], children: ["b", "b"] }, { id: "b", parents: ["a"], children: [] }),
      [[`${at}[0].children[1]`, /repeats the dependency/]],
    ],
    [
      "a parent named twice",
      wfFormat({ id: "a", parents: [], children: ["b"] }, { id: "b", parents: ["a", "a"], children: [] }),
      [[`${at}[1].parents[1]`, /repeats the dependency/]],
    ],
    [
      "a duplicate id",
      wfFormat({ id: "a", parents: [], children: [] }, { id: "a", parents: [], children: [] }),
      [[`${at}[1].id`, /is already used/]],
    ],
    [
      "a cycle",
      wfFormat({ id: "a", parents: ["b"], children: ["b"] }, { id: "b", parents: ["a"], children: ["a"] }),
      [[at, /cycle "a" → "b" → "a"|cycle "b" → "a" → "b"/]],
    ],
    ["a self edge", wfFormat({ id: "a", parents: ["a"], children: ["a"] }), [[at, /depend on itself/]]],
  ])("%s is an error with its path", (_, specification, expected) => {
    const errors = errorsOf(specification);
    expect(errors).toHaveLength(expected.length);
    for (const [position, [path, message]] of expected.entries()) {
      expect(errors[position]).toContain(`flow.json: ${path}`);
      expect(errors[position]).toMatch(message);
    }
  });
});

/** The shape of versions up to 1.4: edges refer to names, and ids are separate. */
function named(version = "1.4", list = "tasks", runtime = "runtimeInSeconds") {
  const one = (name: string, time: number | null, parents: string[], children: string[]) => ({
    name,
    id: `ID${name}`,
    type: "compute",
    parents,
    children,
    files: [],
    [runtime]: time,
  });
  const tasks = [
    one("split", 0.5, [], ["align_1", "align_2"]),
    one("align_1", -1, ["split"], ["cat"]),
    one("align_2", null, ["split"], ["cat"]),
    one("cat", 2, ["align_1", "align_2"], []),
  ];
  return {
    name: "split-align-cat",
    schemaVersion: version,
    workflow: { executedAt: "2020-12-25", [list]: tasks },
  };
}

describe("other versions of WfFormat", () => {
  test.each([
    named("1.4"),
    named("1.3"),
    named("1.3", "tasks", "runtime"),
    named("1.1", "jobs", "runtime"),
    named("1.0", "jobs", "runtime"),
  ])("$schemaVersion: edges refer to names, and a negative or absent run time is left out", (file) => {
    const { tasks: read, edges } = parsed(file);
    expect(read.map(({ id, payload }) => [id, payload])).toEqual([
      ["split", '{"name":"split","runtimeInSeconds":0.5}'],
      ["align_1", '{"name":"align_1"}'],
      ["align_2", '{"name":"align_2"}'],
      ["cat", '{"name":"cat","runtimeInSeconds":2}'],
    ]);
    expect(edges.map(({ from, to }) => `${from}>${to}`)).toEqual([
      "split>align_1",
      "split>align_2",
      "align_1>cat",
      "align_2>cat",
    ]);
  });

  const recorded = (schemaVersion: string) => ({
    name: "recorded",
    schemaVersion,
    workflow: {
      specification: {
        tasks: [
          { name: "INDEX (ref)", id: "INDEX (ref)__#task/01", parents: [], children: ["A:BWA__#task/02"] },
          { name: "A:BWA", id: "A:BWA__#task/02", parents: ["INDEX (ref)__#task/01"], children: null },
        ],
      },
      execution: { tasks: [{ id: "A:BWA__#task/02", runtimeInSeconds: -3 }] },
    },
  });

  test("1.6 is read like 1.5, without a warning", () => {
    const result = parseWorkflow(JSON.stringify(recorded("1.6")), "flow.json");
    expect(result).toMatchObject({ ok: true, warnings: [] });
    expect(parsed(recorded("1.6"))).toEqual(parsed(recorded("1.5")));
    expect(parsed(recorded("1.6")).edges).toEqual([
      { from: "INDEX (ref)__#task/01", to: "A:BWA__#task/02", dataPassing: false },
    ]);
    expect(parsed(recorded("1.6")).tasks[1]?.payload).toBe('{"name":"A:BWA"}');
  });

  test("a newer minor version is read like 1.6, with a warning", () => {
    const result = parseWorkflow(JSON.stringify(recorded("1.17")), "flow.json");
    expect(result).toEqual({
      ok: true,
      value: parsed(recorded("1.6")),
      warnings: ["flow.json: schemaVersion: 1.17 is newer than 1.6: read as 1.6"],
    });
  });

  test("errors of an older version name its properties", () => {
    const file = named("1.1", "jobs");
    const twice = { ...file, workflow: { jobs: [{ name: "a" }, { name: "a", parents: ["b"] }] } };
    expect(errorsOf(twice)).toEqual([
      expect.stringMatching(/^flow.json: workflow.jobs\[1\].name: the name "a" is already used/),
      expect.stringMatching(/^flow.json: workflow.jobs\[1\].parents\[0\]: no task has the name "b"/),
    ]);
    expect(errorsOf({ ...file, workflow: {} })).toEqual([
      expect.stringMatching(/^flow.json: workflow.tasks: is missing/),
    ]);
  });
});

/** The levels of a workflow: each task of a level depends on every task of the level before. */
function layered(...widths: readonly number[]): unknown {
  const levels = widths.map((width, level) =>
    Array.from({ length: width }, (_, index) => `level${level}_task${index}`),
  );
  return wfFormat(
    ...levels.flatMap((ids, level) =>
      ids.map((id) => ({
        id,
        name: id,
        parents: levels[level - 1] ?? [],
        children: levels[level + 1] ?? [],
      })),
    ),
  );
}

/** The shapes of recorded workflows of WfCommons. `.ci/run` also runs recorded files, where it finds them. */
describe("WfFormat 1.5, with the shapes of recorded workflows", () => {
  test.each([
    { shape: "a chain", widths: [1, 1, 1, 1, 1], size: [5, 4] },
    { shape: "fork and join", widths: [1, 8, 1], size: [10, 16] },
    { shape: "levels of many widths", widths: [2, 9, 1, 36, 1, 7], size: [56, 106] },
    { shape: "a fan-out and fan-in of 1,000", widths: [2, 1000, 2], size: [1004, 4000] },
  ])(
    "$shape: every task and edge is read once, and each task sorts after its upstreams",
    ({ widths, size }) => {
      const workflow = parsed(layered(...widths));
      expect([workflow.tasks.length, workflow.edges.length]).toEqual(size);
      const positions = new Map(topologicalOrder(workflow)?.map((id, position) => [id, position]));
      expect(positions.size).toBe(workflow.tasks.length);
      const positionOf = (id: string): number => positions.get(id) ?? Number.NaN;
      expect(workflow.edges.filter(({ from, to }) => !(positionOf(from) < positionOf(to)))).toEqual([]);
    },
  );
});
