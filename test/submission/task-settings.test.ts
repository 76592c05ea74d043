/** The settings of a task, in files and from applications: what is read, and what an error says. */

import { describe, expect, test } from "vitest";
import { parseWorkflow } from "#sdk/submission/parse.ts";
import { workflowErrors } from "#sdk/submission/validate-workflow.ts";
import type { Task, Workflow } from "#sdk/submission/workflow.ts";
import { task, workflowOf } from "#test/submission/fixture.ts";
import { submit } from "#test/submission/flow-checks.ts";

function parse(settings: object) {
  const tasks = [{ id: "a" }, { id: "b" }, { id: "c", dependsOn: ["a", "b"], ...settings }];
  return parseWorkflow(JSON.stringify({ $schema: "workflow.json", name: "x", tasks }), "flow.json");
}

describe("in a file", () => {
  test("every setting is read", () => {
    const settings = {
      kind: "report",
      timeoutSeconds: 0.5,
      maxReclaims: 2,
      delaySeconds: 10,
      deadline: "2030-01-31T18:00:00Z",
      retentionHours: 24,
      waitFor: { quorum: 2, onSatisfied: "cancelRemaining" },
    };
    const parsed = parse({ ...settings, retry: { attempts: 3 } });
    if (!parsed.ok) throw new Error(parsed.errors.join("\n"));
    expect(parsed.value.tasks[2]).toEqual({
      id: "c",
      lane: "default",
      priority: 0,
      payload: "",
      ...settings,
      retry: { attempts: 3, backoff: { type: "fixed", delayMs: 1_000 } },
    });
  });

  test("the other dependencies run on unless the file says otherwise", () => {
    expect(parse({ waitFor: { anyOf: true } })).toMatchObject({
      ok: true,
      value: { tasks: [{}, {}, { waitFor: { anyOf: true, onSatisfied: "letRun" } }] },
    });
  });

  test.each<[settings: object, path: string, message: RegExp]>([
    [{ kind: "" }, "kind", /must be a text of 1 to 64 printable ASCII characters, not the string ""/],
    [{ timeoutSeconds: 0 }, "timeoutSeconds", /at least 0.001/],
    [{ timeoutSeconds: "1" }, "timeoutSeconds", /must be a number, not the string "1"/],
    [{ maxReclaims: 1_001 }, "maxReclaims", /at most 1000/],
    [{ delaySeconds: 31_536_001 }, "delaySeconds", /at most 31536000/],
    [{ deadline: "tomorrow" }, "deadline", /a time like "2030-01-31T18:00:00Z".*not the string "tomorrow"/],
    [{ deadline: "2030-01-31T18:00:00" }, "deadline", /with time zone/],
    [{ deadline: 0 }, "deadline", /at least 0.001/],
    [{ deadline: true }, "deadline", /a time like/],
    [
      { deadline: 60, delaySeconds: 60 },
      "deadline",
      /later than the delay: the task would expire after 60 s, and could not run before 60 s/,
    ],
    [{ retentionHours: 0 }, "retentionHours", /at least 1/],
    [{ retry: { attempts: 0 } }, "retry.attempts", /at least 1/],
    [{ retry: { attempts: 2, maxRetries: 1 } }, "retry", /either "attempts" or "maxRetries"/],
    [{ waitFor: { quorum: 3 } }, "waitFor.quorum", /at most the number of dependencies, which is 2/],
    [{ waitFor: { quorum: 0 } }, "waitFor.quorum", /at least 1/],
    [{ waitFor: { anyOf: false } }, "waitFor.anyOf", /must be true/],
    [{ waitFor: { onSatisfied: "letRun" } }, "waitFor", /either "anyOf" or "quorum"/],
    [{ waitFor: { anyOf: true, quorum: 1 } }, "waitFor", /either "anyOf" or "quorum"/],
    [
      { waitFor: { anyOf: true, onSatisfied: "stop" } },
      "waitFor.onSatisfied",
      /"cancelRemaining" or "letRun"/,
    ],
    [{ dependsOn: [], waitFor: { anyOf: true } }, "waitFor", /needs dependencies/],
  ])("%j is an error with its path", (settings, path, message) => {
    const result = parse(settings);
    const errors = result.ok ? [] : result.errors;
    expect(errors).toEqual([expect.stringMatching(message)]);
    expect(errors[0]?.startsWith(`flow.json: tasks[2].${path}: `)).toBe(true);
  });

  test("all errors of a task are listed together", () => {
    const result = parse({
      retry: { backoff: 1 },
      waitFor: { quorum: 0.5, onSatisfied: 1 },
      timeoutSeconds: 0,
    });
    expect(result.ok ? [] : result.errors.map((error) => error.split(": ")[1])).toEqual([
      "tasks[2].retry.backoff",
      "tasks[2].retry",
      "tasks[2].timeoutSeconds",
      "tasks[2].waitFor.quorum",
      "tasks[2].waitFor.onSatisfied",
    ]);
  });
});

describe("from an application", () => {
  const withTask = (overrides: Partial<Task>): Workflow => ({
    ...workflowOf("a>b"),
    tasks: [task("a"), task("b", overrides)],
  });

  test("a valid workflow has no errors, also with settings that are undefined", () => {
    const settings = {
      retry: undefined,
      waitFor: { anyOf: undefined, quorum: 1, onSatisfied: "letRun" },
    } as const;
    expect(workflowErrors(withTask(settings))).toEqual([]);
  });

  test.each<[Partial<Record<keyof Task, unknown>>, RegExp]>([
    [{ priority: Number.NaN }, /^tasks\[1\]\.priority: /],
    [{ timeoutSeconds: Number.POSITIVE_INFINITY }, /^tasks\[1\]\.timeoutSeconds: /],
    [
      { retry: { maxRetries: 1, backoff: { type: "fixed", delayMs: 1 } } },
      /^tasks\[1\]\.retry.* is missing|unknown/,
    ],
    [{ payload: { an: "object" } }, /^tasks\[1\]\.payload: must be a string/],
    [{ lane: "\n" }, /^tasks\[1\]\.lane: /],
    [{ waitFor: { quorum: 2, onSatisfied: "letRun" } }, /^tasks\[1\]\.waitFor\.quorum: .*which is 1/],
  ])("%j is an error", (overrides, message) => {
    expect(workflowErrors(withTask(overrides as Partial<Task>))[0]).toMatch(message);
  });

  test("errors of the graph are found, too", () => {
    const edges = [
      { from: "a", to: "z", dataPassing: false },
      { from: "b", to: "b", dataPassing: false },
    ];
    expect(workflowErrors({ ...withTask({}), edges })).toEqual([
      expect.stringMatching(/^edges\[0\]: no task has the id "z"/),
      expect.stringMatching(/^edges\[1\]: .*cannot depend on itself/),
    ]);
  });

  test("a submission lists all errors before it sends anything", async () => {
    const valkey = { pipelined: () => expect.fail("nothing may be sent") };
    const invalid = { ...withTask({ timeoutSeconds: 0, kind: "" }), name: "" };
    const attempt = submit(valkey, invalid);
    await expect(attempt).rejects.toMatchObject({ name: "SubmissionError", retryable: false });
    await expect(attempt).rejects.toThrow(
      /the workflow is invalid; nothing was written:\nname: .*\ntasks\[1\]\.kind: .*\ntasks\[1\]\.timeoutSeconds: /,
    );
  });
});
