import { describe, expect, it } from "vitest";
import { alternate, median, slope } from "#bench/measure.ts";
import { atLeast, atMost, describeGoals, describeResult, jsonOf, type Result } from "#bench/report.ts";

describe("measuring", () => {
  it("median: the middle value, or the mean of the two in the middle", () => {
    expect(median([10, 9, 100])).toBe(10);
    expect(median([4, 1, 3, 100])).toBe(3.5);
    expect(() => median([])).toThrow(RangeError);
  });

  it("slope: that of a line, and about 0 for values that only alternate", () => {
    expect(slope([1, 3, 5, 7])).toBeCloseTo(2);
    expect(slope([5, 1, 1, 5])).toBeCloseTo(0);
    expect(slope([4])).toBe(0);
  });

  it("alternate: reverses the order in every round and discards the warm-up round", async () => {
    const order: string[] = [];
    let calls = 0;
    const side = (name: string) => () => {
      order.push(name);
      calls += 1;
      return Promise.resolve(calls);
    };
    const medians = await alternate(3, { a: side("a"), b: side("b") });
    expect(order.join("")).toBe("abbaabba");
    // Without the warm-up round, a has the calls 4, 5 and 8, and b has 3, 6 and 7.
    expect(medians).toEqual({ a: 5, b: 6 });
  });
});

describe("the report", () => {
  const machine = { cores: 2, cpu: "c", node: "24", valkey: "8", platform: "p" };
  const result: Result = {
    name: "fanout",
    measured: "this",
    not_shown: "that",
    seconds: 1.234,
    rows: [
      {
        what: "10 children",
        figures: { sluice_ms: 1.23456, commands: 1_234.5 },
        goals: [atLeast("at least 2", 1.5, 2), atMost("at most 2", 1.5, 2)],
      },
    ],
  };

  it("shows for each goal whether it is met", () => {
    const text = describeResult(result);
    expect(text).toContain("sluice_ms 1.23  commands 1235");
    expect(text).toMatch(/NOT MET\s+at least 2 \(1.5\)/);
    expect(text).toMatch(/met\s+at most 2 \(1.5\)/);
    expect(describeGoals([result])).toMatch(
      /^1 of 2 goals met\n {2}fanout, 10 children: at least 2 \(1.5\)$/,
    );
  });

  it("JSON: one object with a key per benchmark", () => {
    expect(JSON.parse(jsonOf(machine, [result]))).toEqual({
      machine,
      fanout: {
        measured: "this",
        not_shown: "that",
        seconds: 1.23,
        met: false,
        rows: [
          {
            what: "10 children",
            sluice_ms: 1.23,
            commands: 1_235,
            goals: [
              { goal: "at least 2", value: 1.5, met: false },
              { goal: "at most 2", value: 1.5, met: true },
            ],
          },
        ],
      },
    });
  });
});
