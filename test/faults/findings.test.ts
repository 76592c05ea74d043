import { describe, expect, it } from "vitest";
import { compareWithModel, isClean, type Observed } from "#test/faults/findings.ts";
import { type Expected, expectationsOf } from "#test/faults/graph.ts";

/** Task 0 fails, so that 1 is skipped; 2 waits for nothing. */
const EXPECTED: readonly Expected[] = expectationsOf({
  outcomes: ["failed", "success", "success"],
  edges: [[0, 1]],
});

const SOUND: readonly Observed[] = [
  observed({ state: "failed", attempts: 1, leaseEpoch: 1 }),
  observed({ state: "skipped", impossible: 1 }),
  observed({ state: "completed", attempts: 1, leaseEpoch: 1 }),
];

function observed(overrides: Partial<Observed>): Observed {
  const nothing = { attempts: 0, leaseEpoch: 0, unsatisfied: 0, impossible: 0, unresolved: 0 };
  return { state: "", indexes: ["terminal"], ...nothing, ...overrides };
}

/** The findings if one task is in another state than expected. */
function findingsWith(task: number, overrides: Partial<Observed>, cascades = 1, mayLeaveEdges = false) {
  const tasks = SOUND.map((one, index) => (index === task ? { ...one, ...overrides } : one));
  return compareWithModel(EXPECTED, { tasks, cascades, mayLeaveEdges });
}

describe("the findings", () => {
  it("takes its expectations from the model", () => {
    expect(EXPECTED).toEqual([
      { state: "failed", runs: 1, upstreams: 0, impossible: 0 },
      { state: "skipped", runs: 0, upstreams: 1, impossible: 1 },
      { state: "completed", runs: 1, upstreams: 0, impossible: 0 },
    ]);
  });

  it("finds nothing if all states are as expected, and allows each message twice", () => {
    expect(isClean(findingsWith(0, {}, 1))).toBe(true);
    expect(isClean(findingsWith(0, {}, 2))).toBe(true);
  });

  it.each<[string, number, Partial<Observed>]>([
    [
      "a child that still waits",
      1,
      {
        state: "waiting_children",
        indexes: ["blockedDependencies"],
        impossible: 0,
        unsatisfied: 1,
        unresolved: 1,
      },
    ],
    [
      "a child that was never claimed",
      2,
      { state: "waiting", indexes: ["eligible"], attempts: 0, leaseEpoch: 0 },
    ],
    ["a child that ran and should have been skipped", 1, { state: "completed" }],
    ["an unresolved edge", 1, { unsatisfied: 1, impossible: 0, unresolved: 1 }],
    ["an unresolved edge that is not counted", 2, { unresolved: 1 }],
    ["an execution in no index", 2, { indexes: [] }],
    ["an ended execution in the index of active ones", 2, { indexes: ["active"] }],
    ["a record that is gone", 2, { state: "" }],
  ])("finds %s lost", (_, task, overrides) => {
    const { lost, wronglySkipped } = findingsWith(task, overrides);
    expect(lost).not.toEqual([]);
    expect(lost.every((what) => what.startsWith(`task ${task}: `))).toBe(true);
    expect(wronglySkipped).toEqual([]);
  });

  it("finds an execution lost if its state was not read", () => {
    expect(compareWithModel(EXPECTED, { tasks: SOUND.slice(0, 2), cascades: 1 }).lost).toEqual([
      "task 2: no state was read",
    ]);
  });

  it("finds a wrongly skipped execution", () => {
    expect(findingsWith(2, { state: "skipped", attempts: 0, leaseEpoch: 0 })).toMatchObject({
      wronglySkipped: ["task 2: is skipped, expected completed"],
    });
  });

  it.each<[string, number, Partial<Observed>]>([
    ["an execution that was claimed twice", 2, { attempts: 2 }],
    ["an execution with two lease epochs", 2, { leaseEpoch: 2 }],
    ["a skipped execution that was claimed", 1, { attempts: 1 }],
    ["an execution in two indexes", 2, { indexes: ["terminal", "eligible"] }],
    ["a count below zero", 1, { unsatisfied: -1 }],
    ["an impossible edge that was counted twice", 1, { impossible: 2 }],
  ])("finds %s duplicated", (_, task, overrides) => {
    const { lost, wronglySkipped, duplicated } = findingsWith(task, overrides);
    expect({ lost, wronglySkipped }).toEqual({ lost: [], wronglySkipped: [] });
    expect(duplicated).toHaveLength(1);
  });

  it("finds more than two cascade messages per skipped execution", () => {
    expect(findingsWith(0, {}, 3).duplicated).toEqual(["3 cascade messages for 1 skipped executions"]);
    expect(compareWithModel(EXPECTED, { tasks: SOUND, cascades: 3, maxCascades: 4 }).duplicated).toEqual([]);
  });

  it("allows unresolved edges of an ended execution only if the case allows them", () => {
    const open = { unsatisfied: 1, impossible: 0, unresolved: 1 };
    expect(isClean(findingsWith(1, open, 1, true))).toBe(true);
    expect(isClean(findingsWith(1, { ...open, indexes: ["blockedDependencies"] }, 1, true))).toBe(false);
  });
});
