import { describe, expect, test } from "vitest";
import type { Standing } from "#local/census.ts";
import { LastResort } from "#local/reconciler.ts";

const standing = (blocked: number): Standing => ({
  ended: { success: 0, failed: 1, cancelled: 0, expired: 0, skipped: 0 },
  ready: 0,
  delayed: 0,
  active: 0,
  blocked,
});

/** What a function answers, one after the other; an error is thrown. */
function answering(...answers: readonly unknown[]): { faults: string[]; resort: LastResort } {
  const faults: string[] = [];
  const left = answers.values();
  const invoke = async (): Promise<unknown> => {
    const { value, done } = left.next();
    if (done) throw new Error("asked too often");
    if (value instanceof Error) throw value;
    return value;
  };
  return { faults, resort: new LastResort({ invoke }, (fault) => faults.push(fault)) };
}

const sweepOf = (repaired: number, promoted: number, state = "complete") => ({ state, repaired, promoted });

describe("the last resort of a run in which nothing moves", () => {
  test("a sweep that finds nothing ends it", async () => {
    const { resort, faults } = answering(sweepOf(0, 0));
    expect(await resort.setsInMotion(standing(3))).toBe(false);
    expect(faults).toEqual([]);
  });

  test.each([
    ["repaired", [sweepOf(2, 0)]],
    ["promoted", [sweepOf(0, 1)]],
    ["found in an earlier slice", [sweepOf(1, 0, "out_of_time"), sweepOf(0, 0)]],
  ])("one that finds something does not: %s", async (_, answers) => {
    const { resort } = answering(...answers);
    expect(await resort.setsInMotion(standing(3))).toBe(true);
  });

  test.each([
    ["throws", new Error("it broke")],
    ["did not come to its end", sweepOf(0, 0, "incomplete")],
    ["was busy", sweepOf(0, 0, "busy")],
    ["makes no sense", null],
  ])("one that %s is no proof that there is nothing", async (_, answer) => {
    const { resort, faults } = answering(answer, sweepOf(0, 0));
    expect(await resort.setsInMotion(standing(3))).toBe(true);
    expect(faults).toHaveLength(1);
    expect(await resort.setsInMotion(standing(3))).toBe(false);
  });

  test("finding the same again and again without effect ends it, and an effect gives it new patience", async () => {
    const { resort } = answering(...Array.from({ length: 6 }, () => sweepOf(1, 0)));
    for (const blocked of [3, 3, 2, 2, 2]) expect(await resort.setsInMotion(standing(blocked))).toBe(true);
    expect(await resort.setsInMotion(standing(2))).toBe(false);
  });
});
