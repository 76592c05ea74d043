import { describe, expect, it } from "vitest";
import { type CaseContext, type FaultKind, UnsuitableCaseError } from "#test/faults/case.ts";
import { type Findings, join } from "#test/faults/findings.ts";
import { runCases } from "#test/faults/runner.ts";
import { missedPoints, nameOf, POINTS } from "#test/faults/steps.ts";
import type { TestBed } from "#test/faults/test-bed.ts";

const CLEAN = join([]);

/** Runs cases of one kind on a test bed that does nothing. */
async function run(
  cases: number,
  runCase: (context: CaseContext) => Findings,
  inconsistencies: readonly string[] = [],
) {
  const lines: string[] = [];
  const bed = {
    log: [],
    inconsistencies: () => Promise.resolve(inconsistencies),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  } as unknown as TestBed;
  const kind: FaultKind = {
    name: "fake",
    cases: { full: cases, quick: cases },
    startTestBed: () => Promise.resolve(bed),
    run: async (context) => runCase(context),
  };
  const totals = await runCases({
    kinds: [kind],
    casesOf: ({ cases: { full } }) => full,
    seed: 100,
    signal: new AbortController().signal,
    log: (line) => lines.push(line),
  });
  return { totals, lines };
}

describe("the runner of the fault harness", () => {
  it("draws an unsuitable case again from the same seed, with other random numbers, and logs the seed", async () => {
    const drawn: number[] = [];
    const runCase = ({ random }: CaseContext) => {
      drawn.push(random.below(1_000_000));
      if (drawn.length % 3 !== 0) throw new UnsuitableCaseError("no delivery reached it");
      return CLEAN;
    };
    const { totals, lines } = await run(1, runCase);
    expect(totals).toMatchObject({ cases: 1, notRun: 0, lost: 0 });
    expect(new Set(drawn).size).toBe(3);
    expect(lines.filter((line) => line.includes("seed 100: no delivery reached it"))).toHaveLength(2);
    await run(1, runCase);
    expect(drawn.slice(3)).toEqual(drawn.slice(0, 3));
  });

  it("reports a case as not run if ten draws are unsuitable", async () => {
    let draws = 0;
    const { totals, lines } = await run(1, () => {
      draws += 1;
      throw new UnsuitableCaseError("no delivery reached it");
    });
    expect(draws).toBe(10);
    expect(totals.notRun).toBe(1);
    expect(lines.join("\n")).toContain("could not be run: no delivery reached it");
  });

  it("does not draw a case again that failed for another reason or that has findings", async () => {
    let runs = 0;
    const { totals } = await run(2, ({ number }) => {
      runs += 1;
      if (number === 100) throw new Error("the server is gone");
      return { lost: ["task 1: is waiting"], wronglySkipped: [], duplicated: [], inconsistent: [] };
    });
    expect(runs).toBe(2);
    expect(totals).toMatchObject({ cases: 2, notRun: 1, lost: 1 });
  });

  it("fails a case that leaves Valkey inconsistent, with the text of the finding", async () => {
    const { totals, lines } = await run(1, () => CLEAN, ["stale_entry in ff:idx:{fp:1}:lease_expiry"]);
    expect(totals).toMatchObject({ cases: 1, inconsistent: 1, lost: 0 });
    expect(lines.join("\n")).toContain("inconsistent: stale_entry in ff:idx:{fp:1}:lease_expiry");
  });

  it("collects the injection points that its cases reached; the others are missed", async () => {
    const [first, second, ...others] = POINTS.map(nameOf);
    const { totals } = await run(2, ({ number, onReached }) => {
      onReached((number === 100 ? first : second) ?? "");
      return CLEAN;
    });
    expect(missedPoints(totals.reached)).toEqual(others);
    expect(missedPoints(new Set(POINTS.map(nameOf)))).toEqual([]);
  });
});
